"""Peak memory of preparing corpora of growing size: `python -m benchmarks.memory TEXTS.jsonl MEGABYTES ...`.

The texts are repeated with changing words up to each size; `python -m lmx.data prepare` runs on the file as a
user would run it, with byte tokens. Ten gigabytes need thirty of disk below the folder of temporary files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT = 300  # texts


def main(texts: str, *megabytes: str) -> None:
    """Print one row a size."""
    print("| text, MB | seconds | peak resident memory, MiB |\n|---:|---:|---:|", flush=True)
    for size in map(int, megabytes):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            written = write_corpus(Path(texts), folder / "corpus", size * 1_000_000)
            seconds, peak = prepare(folder)
        print(f"| {written / 1e6:,.0f} | {seconds:,.0f} | {peak:,.0f} |", flush=True)


def write_corpus(source: Path, folder: Path, size: int) -> int:
    """Write train.jsonl of at least `size` bytes, and valid.jsonl; return the bytes of the first."""
    folder.mkdir()
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "valid.jsonl").write_text("".join(lines[:HELD_OUT]), encoding="utf-8")
    body = "".join(lines[HELD_OUT:])
    written = repetition = 0
    with open(folder / "train.jsonl", "wb") as file:
        while written < size:
            repetition += 1
            written += file.write(body.replace(" the ", f" the {repetition} ").encode())
    return written


def prepare(folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak memory, in MiB, of the command."""
    command = [sys.executable, "-m", "lmx.data", "prepare", "data=text", "tokenizer=byte"]
    command += [f"data.files={folder / 'corpus'}", f"paths.cache={folder / 'cache'}"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return time.perf_counter() - begun, usage.ru_maxrss / unit


if __name__ == "__main__":
    main(*sys.argv[1:])
