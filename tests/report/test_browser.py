"""The HTML page of a study in headless Chromium, where one is found: `LMX_TEST_BROWSER` names another."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx.report import render_study

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOUND = os.environ.get("LMX_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
WIDTH = 1000  # of the window, in pixels
POLICY = "default-src 'none'"
# what the page looks like once it is loaded, written into it
SCRIPT = """<script>addEventListener("load", () => {
  const root = document.documentElement, seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify({
    window: innerWidth, room: root.clientWidth, width: root.scrollWidth, height: root.scrollHeight,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name),
    images: [...document.images].map(image => image.naturalWidth),
    cut: [...document.querySelectorAll(".table")].filter(box => box.scrollWidth > box.clientWidth).length,
  });
  root.append(seen);
});</script>"""

pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium or Chrome")


def opened(page: Path, place: Path) -> dict[str, Any]:
    """Open `page` with one script in it, and say how it looks and what the console said.

    Its own policy stays but for that script: whatever it would fetch is refused, and the console says so.
    """
    text = page.read_text(encoding="utf-8").replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'", 1)
    copy = page.with_name("opened.html")
    copy.write_text(text.replace("</body>", f"{SCRIPT}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0"]
    options += [f"--window-size={WIDTH},800", f"--user-data-dir={place / 'profile'}", "--no-first-run"]
    command = [str(FOUND), *options, "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert seen is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(seen[1])), "console": console}


def test_the_page_of_a_study_opens_by_itself_and_fits(
    make_study: Callable[..., Path], tmp_path: Path
) -> None:
    """Names as long as a grid makes them, and one without any place to break."""
    grid = [f"optimizer.lr={rate}e-3,train.batch_size={rate * 16},model.num_layers={rate}" for rate in (1, 2)]
    report = render_study(make_study({"x" * 130: {}, **{name: {} for name in grid}}))
    seen = opened(report.with_suffix(".html"), tmp_path)
    assert (seen["console"], seen["fetched"]) == ([], [])
    assert len(seen["images"]) == 5
    assert all(width > 500 for width in seen["images"])
    assert seen["window"] == WIDTH
    assert seen["width"] <= seen["room"], "it would scroll to the side"
    assert seen["height"] > 2000


def test_wide_tables_of_a_grid_are_not_cut_off(make_study: Callable[..., Path], tmp_path: Path) -> None:
    names = [
        f"optimizer.lr={rate}e-3,train.batch_size={rate * 16},model.num_layers={rate}" for rate in (1, 2, 3)
    ]
    report = render_study(make_study({name: {} for name in names}))
    assert opened(report.with_suffix(".html"), tmp_path)["cut"] == 0


def test_a_page_that_fetches_or_is_too_wide_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    (tmp_path / "there.css").write_text("p { color: red }")
    body = '<link rel="stylesheet" href="there.css"><div style="width: 1200px">wide</div><img src="gone.png">'
    page.write_text(f"<html><head>{policy}</head><body>{body}</body></html>")
    seen = opened(page, tmp_path)
    assert len(seen["console"]) >= 2
    assert any("gone.png" in line for line in seen["console"])
    assert any("there.css" in line for line in seen["console"])
    assert seen["images"] == [0]
