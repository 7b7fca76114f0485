"""A report's Markdown as one HTML file that needs nothing beside it: pictures inside, no scripts."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from lmx.runs import write_atomic

STYLE = """
:root {
  --ink: #1d2127; --soft: #5b636e; --line: #dfe3e8; --paper: #ffffff; --tint: #f5f7f9; --accent: #0b5a8f;
  --error: #b3261e; --warning: #8a5a00; --note: #4b5563;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #9aa4b0; --line: #353b43; --paper: #141414; --tint: #1d1f22; --accent: #7cc0ee;
    --error: #ff8f86; --warning: #f0c069; --note: #aab4c0;
  }
  img { filter: invert(0.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  overflow-wrap: break-word;
  font: 16px/1.6 "Source Serif 4", "Source Serif Pro", Charter, "Iowan Old Style", Georgia, serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
main > * { max-width: 44rem; }
h1, h2, h3, th, td, figcaption, nav, pre, code, footer {
  font-family: "Inter", "Source Sans 3", system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 1rem; }
h2 {
  font-size: 1.22rem; letter-spacing: -0.005em; margin: 3rem 0 0.8rem; padding-top: 1.1rem;
  border-top: 1px solid var(--line); max-width: none;
}
h3 { font-size: 1rem; margin: 1.8rem 0 0.5rem; }
p { margin: 0 0 1rem; }
blockquote { margin: 0 0 1.3rem; padding: 0; color: var(--soft); font-size: 1.12rem; font-style: italic; }
blockquote p { margin: 0; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
nav { margin: 1.6rem 0 0; font-size: 0.86rem; line-height: 1.9; color: var(--soft); max-width: none; }
nav a { margin-right: 1.1rem; text-decoration: none; display: inline-block; max-width: 100%; }
nav a:hover { text-decoration: underline; }
.table { overflow-x: auto; margin: 0.4rem 0 1.5rem; max-width: none; }
table { border-collapse: collapse; font-size: 0.86rem; line-height: 1.45; }
th, td { padding: 0.38rem 0.9rem 0.38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { text-align: left; color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:last-child, td:last-child { padding-right: 0; }
td { font-variant-numeric: tabular-nums; }
td[style*="right"] { white-space: nowrap; }
td[style*="left"] + td[style*="left"] { min-width: 8rem; }
tbody tr:hover td { background: var(--tint); }
td strong { font-weight: 650; }
figure { margin: 1.4rem 0 2rem; max-width: none; }
img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 0.84rem; margin-top: 0.5rem; }
pre {
  background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 0.8rem 1rem;
  overflow-x: auto; font-size: 0.82rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
}
code {
  font-family: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace; font-size: 0.86em;
}
pre code { font-size: inherit; }
ul { padding-left: 1.2rem; margin: 0 0 1.2rem; }
li { margin: 0 0 0.45rem; }
footer { margin-top: 3.5rem; color: var(--soft); font-size: 0.8rem; }
@media print { main { max-width: none; padding: 0; } nav { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write_page(report: Path) -> Path:
    """Render a Markdown report as `<its name>.html` beside it; return the page's path.

    Pictures are put into the page; raw HTML in the Markdown is shown as the text that it is.
    """
    text = report.read_text(encoding="utf-8")
    body = _with_navigation(_with_figures(_with_tables(to_html(text)), report.parent))
    title = re.search(r"^# (.+)$", text, flags=re.M)
    page = PAGE.format(title=html.escape(title[1] if title else report.stem), style=STYLE, body=body)
    return write_atomic(report.with_suffix(".html"), page)


def to_html(text: str) -> str:
    """Convert Markdown (tables, fenced code, headings with anchors) to HTML; raw HTML is escaped."""
    from markdown import Markdown

    converter = Markdown(extensions=["tables", "fenced_code", "toc", "sane_lists"], output_format="html")
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    return converter.convert(text)


def _with_tables(body: str) -> str:
    """Let a wide table scroll by itself instead of widening the page, and a long name break at its commas."""
    body = re.sub(r"<t[dh]\b.*?</t[dh]>", _breakable, body)
    return body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def _breakable(cell: re.Match[str]) -> str:
    """A cell whose text, and not its links' targets, may break after a comma that stands in no number."""
    return re.sub(r"(?<=>)[^<]+", lambda text: re.sub(r",(?=[^\s\d])", ",<wbr>", text[0]), cell[0])


def _with_figures(body: str, folder: Path) -> str:
    """Put each picture that is a file beside the report into the page, with its caption."""

    def figure(match: re.Match[str]) -> str:
        caption, place = match[1], html.unescape(match[2])
        path = folder / place
        if path.suffix != ".png" or not path.is_file():
            return f"<p>{caption} ({html.escape(place)})</p>"
        data = base64.b64encode(path.read_bytes()).decode()
        picture = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    return re.sub(r'<p><img alt="([^"]*)" src="([^"]*)"\s*/?></p>', figure, body)


def _with_navigation(body: str) -> str:
    """Put links to the sections before the first of them."""
    sections = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)
    if len(sections) < 3:
        return body
    links = " ".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in sections)
    return body.replace("<h2 ", f"<nav>{links}</nav>\n<h2 ", 1)
