"""Preparing a corpus with the GPT-2 tokenizer, against `datasets.map`.

`python -m benchmarks.tokenizing TEXTS.jsonl TOKENIZER_FOLDER [MEGABYTES [ROUNDS]]`

The texts are repeated, each time with a number at their end, to a file of MEGABYTES. Each side starts from
that file, in a process of its own on the same two cores, and ends with the ids of all texts in one file:

- lmx: `lmx.data.prepare`, with its counts, hashes and leak check
- tiktoken: `datasets.load_dataset`, `map` in two processes with `encode_ordinary_batch`, columns to a file
- transformers: the same with `PreTrainedTokenizerFast`

Sides take turns; imports are not timed, reading the tokenizer is. The ids must be equal. Beside the time
stands the work, the time of all cores together: it depends less on what else the machine does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Encoder = Callable[[list[str]], list[list[int]]]

CORES = 2
HELD_OUT = 200  # texts for validation, which lmx wants
SIDES = ("lmx", "tiktoken", "transformers")
EOS = 50256


def main(texts: str, tokenizer: str, megabytes: str = "64", rounds: str = "5") -> None:
    """Print one row a side."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_corpus(Path(texts), folder / "corpus", int(megabytes) * 1_000_000)
        print(f"{size / 1e6:,.1f} MB of text, {rounds} rounds in turn, {CORES} cores; MB/s", flush=True)
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        work: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(int(rounds)):
            for side in SIDES[number % 3 :] + SIDES[: number % 3]:
                wall, cpu = run_side(side, folder, tokenizer)
                seconds[side].append(wall)
                work[side].append(cpu)
            same = [np.array_equal(ids_of(folder, "lmx"), ids_of(folder, side)) for side in SIDES]
            assert all(same), dict(zip(SIDES, same, strict=True))
        print(f"{len(ids_of(folder, 'lmx')):,} equal ids")
        print(f"{'':14}{'median':>8} {'min–max':>14} {'time':>8} {'core-ms a MB':>14} {'work':>8}")
        for side in SIDES:
            speeds = sorted(size / 1e6 / second for second in seconds[side])
            spread = f"{speeds[0]:.1f}–{speeds[-1]:.1f}"
            cost = statistics.median(work[side]) / (size / 1e9)
            print(
                f"{side:14}{statistics.median(speeds):>8.1f} {spread:>14} "
                f"{ratio(seconds['lmx'], seconds[side]):>7.2f}× {cost:>14.1f} "
                f"{ratio(work['lmx'], work[side]):>7.2f}×"
            )


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of theirs / ours."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def write_corpus(source: Path, folder: Path, size: int) -> int:
    """Write train.jsonl of about `size` bytes of text and valid.jsonl; return the bytes of both texts."""
    folder.mkdir()
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    written = repetition = 0
    with open(folder / "valid.jsonl", "w", encoding="utf-8") as file:
        for text in texts[:HELD_OUT]:
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        while written < size:
            repetition += 1
            for text in texts[HELD_OUT:]:
                text = f"{text} {repetition}"
                file.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
    return written


def run_side(side: str, folder: Path, tokenizer: str) -> tuple[float, float]:
    """Return the seconds that a side took and those that all its cores worked, after its imports."""
    subprocess.run(["rm", "-rf", str(folder / side)], check=True)
    (folder / side).mkdir()
    command = [sys.executable, "-m", "benchmarks.tokenizing", "--side", side, str(folder), tokenizer]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / side / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu = done.stdout.split()[-2:]
    return float(wall), float(cpu)


def ids_of(folder: Path, side: str) -> np.ndarray:
    """Return the ids that a side wrote for train."""
    [file] = (folder / side).rglob("train.tokens")
    return np.memmap(file, np.uint16, "r")


def prepare_with_lmx(folder: Path, tokenizer: str) -> Callable[[], None]:
    """Return lmx's side."""
    from lmx.config import DataConfig, TokenizerConfig
    from lmx.data import prepare

    data = DataConfig(name="corpus", source="files", files=str(folder / "corpus"))
    config = TokenizerConfig(name="gpt2", kind="pretrained", path=tokenizer)
    return lambda: prepare(data, config, folder / "lmx", lambda text: None) and None


def map_with_datasets(folder: Path, tokenizer: str, side: str) -> Callable[[], None]:
    """Return the side of `datasets.map`, as its documentation advises: batches, and a process a core."""
    import datasets

    datasets.disable_progress_bars()
    read = {"tiktoken": tiktoken_encoder, "transformers": transformers_encoder}[side](tokenizer)

    def work() -> None:
        encode = read()

        def ids(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            return {"ids": encode(batch["text"])}

        files = {
            "train": str(folder / "corpus/train.jsonl"),
            "validation": str(folder / "corpus/valid.jsonl"),
        }
        for split, rows in datasets.load_dataset("json", data_files=files).items():
            mapped = rows.map(ids, batched=True, num_proc=CORES, remove_columns=["text"])
            with open(folder / side / f"{split}.tokens", "wb") as file:
                file.write(np.uint16(EOS).tobytes())
                for batch in mapped.with_format("arrow").iter(1000):
                    column = batch["ids"].combine_chunks()
                    values = column.values.to_numpy()
                    file.write(
                        np.insert(values, column.offsets.to_numpy()[1:], EOS).astype(np.uint16).tobytes()
                    )

    return work


def tiktoken_encoder(tokenizer: str) -> Callable[[], Encoder]:
    """Return what reads GPT-2 for tiktoken from a local tokenizer.json."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str

    from lmx.data.byte_level import byte_letters

    def read() -> Encoder:
        rules = json.loads((Path(tokenizer) / "tokenizer.json").read_text(encoding="utf-8"))
        byte_of = {letter: byte for byte, letter in byte_letters().items()}
        vocab = rules["model"]["vocab"].items()
        ranks = {bytes(byte_of[c] for c in token): i for token, i in vocab if i != EOS}
        encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
        return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=1)

    return read


def transformers_encoder(tokenizer: str) -> Callable[[], Encoder]:
    """Return what reads GPT-2 for transformers."""
    from transformers import PreTrainedTokenizerFast

    def read() -> Encoder:
        loaded = PreTrainedTokenizerFast(tokenizer_file=str(Path(tokenizer) / "tokenizer.json"))
        return lambda texts: loaded(texts, return_attention_mask=False)["input_ids"]

    return read


def time_side(side: str, folder: str, tokenizer: str) -> None:
    """Run a side and print its seconds."""
    if side == "lmx":
        work = prepare_with_lmx(Path(folder), tokenizer)
        import tiktoken  # noqa: F401
        import tokenizers  # noqa: F401
    else:
        work = map_with_datasets(Path(folder), tokenizer, side)
    begun, worked = time.perf_counter(), core_seconds()
    work()
    print(time.perf_counter() - begun, core_seconds() - worked)


def core_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    if sys.argv[1] == "--side":
        time_side(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
