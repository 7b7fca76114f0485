"""A training step of lmx as it comes, against what others would run.

`python -m benchmarks.training [--vocabulary V ...] [--rounds N] [--steps N] [--sides SIDE ...]`

The work: 4 layers, width 256, 4 heads, feed-forward 1,024, GPT-2's architecture with a tied head, batches
of 8 × 256 tokens, AdamW, clipping at norm 1. Every side starts from the same weights, sees the same batches
in the same order and must show the same losses. Sides take turns, each a process of its own; a step's time is
the mean over the steps after the warm-up, and peak memory is that of the whole process. lmx is
`python -m lmx.train` with its defaults: hardware=auto, every measurement, TensorBoard. lmx-compiled is the
same with hardware.compile=on, which auto chooses on a GPU for runs longer than this one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import environment, write

WARMUP = 10
SIDES = (
    "lmx",
    "lmx-compiled",
    "lmx-unmeasured",
    "bare",
    "plain",
    "plain-bf16-compiled",
    "lightning",
    "trainer",
)
OVERRIDES = {  # of those that are lmx
    "lmx": [],
    "lmx-compiled": ["hardware.compile=on"],
    "lmx-unmeasured": ["callbacks=none", "logger=none"],
}
# with 1e-3 and no warm-up the gradient's norm jumps a hundredfold now and then, in fp32 too
RATE = 3e-4
# mean losses may differ by rounding alone; lmx itself takes bf16 where the machine multiplies it
TOLERANCE = 1e-2


def main(argv: list[str] | None = None) -> None:
    """Print and write one table a vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8192, 50257])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    given = parser.parse_args(argv)
    text = [f"# A training step\n\n{environment()}\n"]
    for vocabulary in given.vocabulary:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder, vocabulary, given.steps)
            measured = take_turns(folder, given.sides, given.rounds)
        text.append(
            f"## V = {vocabulary:,}, {given.rounds} rounds of {given.steps} steps\n\n{table(measured)}\n"
        )
        print(text[-1], flush=True)
        check_losses(measured)
    print(f"written to {write('training', chr(10).join(text))}")


def prepare(folder: Path, vocabulary: int, steps: int) -> None:
    """Write the first weights, the batches and the description of the work."""
    from lmx.config.compose import compose
    from lmx.data import prepare as prepare_corpus
    from lmx.data.sampler import TrainingOrder
    from lmx.model import Decoder
    from lmx.model.to_transformers import save_transformers
    from lmx.training.randomness import seed_all

    shape = {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 1024}
    dropouts = ("embedding_dropout", "attention_dropout", "residual_dropout")
    corpus = ["data=storyworld", "data.stories=2000", "data.held_out_stories=64", "tokenizer=bpe_1k"]
    learning = [f"optimizer.lr={RATE}", "optimizer.weight_decay=0.1", "schedule=constant"]
    length = ["train.batch_size=8", f"train.horizon={steps}steps"]
    common = [*corpus, *learning, *length, f"paths.cache={folder / 'cache'}"]
    model = [f"model.{key}={value}" for key, value in shape.items()]
    model += [f"model.{key}=0.0" for key in dropouts]
    model += [f"model.vocab_size={vocabulary}", "model.context_length=256"]
    experiment = compose(["model=gpt2_small", *model, *common])
    seed_all(experiment.seed)
    save_transformers(Decoder(experiment.model), folder / "init")
    train = prepare_corpus(experiment.data, experiment.tokenizer, folder / "cache", print).splits["train"]
    order = TrainingOrder(
        len(train),
        8,
        seed=experiment.seed,
        shuffle=True,
        steps_per_epoch=len(train) // 8,
        total_steps=steps,
    )
    batches = [train.gather(indices) for indices in order]
    rows = [np.concatenate([b["tokens"], b["targets"][:, -1:]], axis=1) for b in batches]
    np.save(folder / "batches.npy", np.stack(rows).astype(np.int32))
    shared = {"width": 256, "layers": 4, "heads": 4, "length": 256, "batch": 8, "vocabulary": vocabulary}
    update = {"lr": RATE, "weight_decay": 0.1, "betas": experiment.optimizer.update["betas"]}
    run = {"steps": steps, "warmup": WARMUP, "overrides": [*common, "train.eval_at_start=false"]}
    work = shared | update | run
    (folder / "work.json").write_text(json.dumps(work))


def take_turns(folder: Path, sides: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each side's rounds; each round begins with another side."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
            measured[side].append(run_side(side, folder))
    return measured


def run_side(side: str, folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own; return `seconds` a step, `losses` and `peak_mib`."""
    outputs = folder / "outputs"
    overrides = json.loads((folder / "work.json").read_text())["overrides"]
    ours = side in OVERRIDES
    if ours:
        init, place = f"init_from=hf:{folder / 'init'}", f"paths.outputs={outputs}"
        given = [*overrides, init, place, *OVERRIDES[side]]
        command = [sys.executable, "-m", "lmx.train", *given]
    else:
        command = [sys.executable, "-m", "benchmarks.peers", side, str(folder)]
    said = folder / "said"
    with open(said, "w") as file:
        child = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{said.read_text()}")
    figures = of_run(newest(outputs)) if ours else json.loads(said.read_text().splitlines()[-1])
    return {**figures, "peak_mib": usage.ru_maxrss / 1024}


def newest(outputs: Path) -> Path:
    """Return the folder of the run that was just made."""
    return max(outputs.glob("*/*"), key=lambda path: path.stat().st_mtime)


def of_run(folder: Path) -> dict[str, Any]:
    """Return `seconds` a step after the warm-up, the mean losses of recorded `windows`, and the `evaluation`.

    The last is its tokens a second, as a multiple of training's.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    [first] = [line for line in train if line["step"] == WARMUP]
    last, evaluation = train[-1], [line for line in lines if line["kind"] == "val"][-1]
    tokens = json.loads((folder / "run.json").read_text())["data"]["splits"]["validation"]["targets"]
    seconds, trained = (last[key] - first[key] for key in ("seconds", "tokens"))
    return {
        "seconds": seconds / (last["step"] - first["step"]),
        "windows": [(line["step"], line["train/loss"]) for line in train],
        "evaluation": tokens / evaluation["val/seconds"] * seconds / trained,
    }


def check_losses(measured: dict[str, list[dict[str, Any]]]) -> None:
    """Assert that every side learned the same: mean losses over the windows of steps that lmx records."""
    windows = measured["lmx"][0]["windows"]
    for side, rounds in measured.items():
        for figures in rounds:
            start = 0
            for index, (stop, ours) in enumerate(windows):
                theirs = figures["windows"][index][1] if "windows" in figures else None
                theirs = theirs or statistics.fmean(figures["losses"][start:stop])
                assert abs(theirs - ours) < TOLERANCE * ours, (side, stop, theirs, ours)
                start = stop


def table(measured: dict[str, list[dict[str, Any]]]) -> str:
    """Medians and spread of each side; ratios are medians over the rounds."""
    rows = ["| side | ms a step | min–max | time / lmx's | peak MiB | memory / lmx's |", "|---|" + "--:|" * 5]
    for side, rounds in measured.items():
        times, peaks = ([figures[key] for figures in rounds] for key in ("seconds", "peak_mib"))
        spread = f"{1000 * min(times):.0f}–{1000 * max(times):.0f}"
        slower, larger = (
            statistics.median(a[key] / b[key] for a, b in zip(rounds, measured["lmx"], strict=True))
            for key in ("seconds", "peak_mib")
        )
        rows.append(
            f"| {side} | {1000 * statistics.median(times):.0f} | {spread} | {slower:.2f}× "
            f"| {statistics.median(peaks):,.0f} | {larger:.2f}× |"
        )
    rates = [figures["evaluation"] for figures in measured["lmx"]]
    middle, spread = statistics.median(rates), f"{min(rates):.1f}–{max(rates):.1f}"
    rows.append(f"\nlmx evaluates {middle:.1f} times as many tokens a second as it trains on ({spread}).")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
