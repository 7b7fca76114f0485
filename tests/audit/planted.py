"""The faults of the recorded experiments and of issue 5, each planted once, with the code that must find it.

Each plant says where its fault comes from: a real run of lmx with the fault switched on in its configuration,
a real run's record into which the fault was written, or a report in Markdown.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from audit_bench import Bench, edit, put, timed, with_losses
from planted_reports import CLEAN_REPORTS, FAULTY_REPORTS, REPORTS, layout

from lmx.audit import Finding, audit_comparison, audit_run
from lmx.audit.report import audit_report
from lmx.optim.orthogonal import orthogonalise
from lmx.runs import Run, RunFolder

Make = Callable[[Bench], Sequence[Finding]]
Change = Callable[[Run], object]
REAL, EDITED, REPORT = "real run", "edited record", "report"


@dataclass(frozen=True)
class Plant:
    """One fault, where it was recorded (a family, or the issue), how it is planted, and its code.

    A report holds all its faults at once; elsewhere one fault stands alone.
    """

    family: str
    fault: str
    how: str
    code: str
    make: Make

    def outcome(self, bench: Bench) -> tuple[bool, set[str]]:
        """Return whether the fault is found, and the codes of false alarms beside it."""
        found = {finding.code for finding in self.make(bench)}
        planted = {other.code for other in PLANTED if other.make is self.make}
        return self.code in found, found - planted


def real(*overrides: str) -> Make:
    """Train with the fault in the configuration."""
    return lambda bench: audit_run(bench.run(*(overrides if OFTEN[0] in overrides else (*overrides, *SHORT))))


def edited(change: Change, *overrides: str) -> Make:
    """Write the fault into the record of a clean run."""

    def make(bench: Bench) -> list[Finding]:
        run = timed(bench.run(*overrides))
        change(run)
        return audit_run(run)

    return make


def arms(*changes: Change, seeds: int = 2, longer: int = 10) -> Make:
    """Compare arms, each a clean record with one change, with `seeds` seeds and `longer` times the steps."""
    return lambda bench: audit_comparison(
        [run for change in changes for run in arm(bench, change, seeds, longer)]
    )


def arm(bench: Bench, change: Change, seeds: int = 2, longer: int = 10) -> list[Run]:
    """Return the runs of an arm: a clean record, under several seeds."""
    runs = []
    for seed in range(1, seeds + 1):
        run = bench.run()
        put(put(run, "seed", seed), "seed", seed, part="identity")
        edit(run, "val", lambda line, seed=seed: line.update({"val/loss": line["val/loss"] + 1e-3 * seed}))
        for line in run.lines:
            line["step"] *= longer
            line["tokens"] *= longer
        change(run)
        edit(run, "val", lambda line, run=run: line.update({"val/loss": line["val/loss"] + _mark(run)}))
        runs.append(run)
    return runs


def _mark(run: Run) -> float:
    """A small number of its own for each configuration, so that two arms never agree by construction."""
    return (zlib.crc32(str(run.config).encode()) % 9973) * 1e-7


def setting(key: str, value: object) -> Change:
    """Change one setting of an arm."""
    return lambda run: put(run, key, value)


def known(key: str, value: object) -> Change:
    """Change one fact of run.json."""
    return lambda run: put(run, key, value, part="identity")


def shown(kind: str, name: str, value: float) -> Change:
    """Give one measure the same value in every record of a kind."""
    return lambda run: edit(run, kind, lambda line: line.update({name: value}))


def both(*changes: Change) -> Change:
    """Make several changes."""
    return lambda run: [change(run) for change in changes]


def beside(change: Change) -> Make:
    """Compare two rates, the second with one change more."""
    return arms(setting("optimizer.lr", 1e-3), both(setting("optimizer.lr", 2e-3), change))


@cache
def report(name: str) -> Make:
    """Read a report."""
    return lambda bench: audit_report(REPORTS / name).findings


def twice_the_tokens(run: Run) -> None:
    """Train on twice as much."""
    for line in run.lines:
        line["tokens"] *= 2


def orthogonal_norms(run: Run) -> None:
    """Norms as they are of Muon's buffer after the update: of orthogonalised momentum, block by block."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 32)] * 4 + [(64, 32)] * 2 + [(32, 64)]
    for line in run.of_kind("train"):
        for block in range(2):
            matrices = [torch.randn(shape, generator=generator) for shape in shapes]
            norms = [float(orthogonalise([m], dtype="fp32")[0].norm()) for m in matrices]
            line[f"train/grad_norm/block_{block:02d}"] = math.hypot(*norms)


def jump(run: Run) -> None:
    """The fourth record's gradient is twenty times the first one's, which is the largest."""
    lines = run.of_kind("train")
    norm = 20 * lines[0]["train/grad_norm"]
    lines[3] |= {"train/grad_norm": norm, "train/log_pi": -(lines[3]["train/entropy"] + norm)}


def compiled(run: Run) -> None:
    """The first record holds half a minute of compilation."""
    put(run, "hardware.compile", True, part="identity")
    run.of_kind("train")[0]["speed/step_seconds"] += 6.0


def evaluation_in_the_clock(run: Run) -> None:
    """Each record after an evaluation is longer by its seconds."""
    lines = run.lines
    for before, line in pairwise(lines):
        if before["kind"] == "val" and line["kind"] == "train" and before["step"]:
            line["speed/step_seconds"] += before["val/seconds"] / line["steps"]


def launch_times(run: Run) -> None:
    """Steps timed without waiting for the device."""
    edit(run, "train", lambda line: line.update({"speed/step_seconds": line["speed/step_seconds"] / 10}))


def lines_as_steps(run: Run) -> None:
    """Count the lines of the log."""
    put(run, "total_steps", len(run.of_kind("train")), part="identity")


def entropy_over_vocabulary(line: dict[str, float]) -> None:
    """Divide by B·T·V."""
    line["train/entropy"] /= 257
    line["train/log_pi"] = -(line["train/entropy"] + line["train/grad_norm"])


def no_entropy_in_pi(line: dict[str, float]) -> None:
    """PI = exp(−G)."""
    line["train/log_pi"] = -line["train/grad_norm"]


ROWS = ("tokenizer=bpe", "tokenizer.vocab_size=400", "data.packing=sentences", "data.sequence_length=48")
FILES = ("data=text", "tokenizer=byte", "data.separator=newlines", "checkpoint.best=null")
SHORT = ("train.horizon=10steps",)
OFTEN = ("train.log_every_steps=1",)


def from_file(*overrides: str) -> Make:
    """Train on a text file."""
    return lambda bench: audit_run(
        bench.run(*FILES, f"data.files={bench.text('a.txt', 6000)}", *overrides, *SHORT)
    )


def same_file(bench: Bench) -> list[Finding]:
    """Train and validate on one text, which lies in two files."""
    file, other = bench.text("a.txt", 6000), bench.folder / "b.txt"
    other.write_bytes(file.read_bytes())
    return audit_run(bench.run(*FILES, f"data.files={file}", f"data.validation_files={other}", *SHORT))


def fine_tuned(bench: Bench) -> list[Finding]:
    """Start from a run's weights and evaluate only afterwards."""
    start = bench.run().path
    return audit_run(bench.run(f"init_from={start}", "train.eval_at_start=false", *SHORT))


def two_names(bench: Bench) -> list[Finding]:
    """Run the baseline under the name of an ablation."""
    return audit_comparison([bench.run(), bench.run("name=nope")])


def wrong_best(bench: Bench) -> list[Finding]:
    """Keep the weights of the first evaluation after step 0, which is the highest."""
    run, folder = timed(bench.run()), bench.empty()
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best-00000010.ckpt").touch()
    run.folder = RunFolder(folder)
    return audit_run(run)


def overfitted(bench: Bench) -> list[Finding]:
    """Ten passes, and validation rises after the fourth."""
    run = timed(bench.run())
    run.folder = RunFolder(bench.empty())
    for line in run.lines:
        line["epoch"] = line["step"] / 3
    for line, loss in zip(run.of_kind("val"), (5.5, 4.6, 4.7, 5.1), strict=True):
        line |= {"val/loss": loss, "val/perplexity": math.exp(loss)}
    return audit_run(run)


IN_RUNS: tuple[Plant, ...] = (
    # A
    Plant("A", "pads in loss and perplexity", REAL, "padding-in-loss",
          real(*ROWS, "data.mask_padding=false")),
    Plant("A", "entropy divided by the vocabulary once more", REAL, "entropy-wrong-denominator",
          real("callbacks.predictive_integrity.alpha=0.0038910505836575876")),
    Plant("A", "entropy's denominator, in the record", EDITED, "entropy-wrong-denominator",
          edited(lambda run: edit(run, "train", entropy_over_vocabulary))),
    Plant("A", "PI without its entropy", EDITED, "pi-not-its-formula",
          edited(lambda run: edit(run, "train", no_entropy_in_pi))),
    Plant("A", "last validation batch dropped", REAL, "last-batch-dropped", real("data.held_out_batch=7")),
    Plant("A", "last validation batch missing from the windows", EDITED, "last-batch-dropped",
          lambda bench: audit_run(with_losses(timed(bench.run()), bench.empty(), 64))),
    Plant("A", "best by max, configured", REAL, "best-by-wrong-direction", real("checkpoint.best_mode=max")),
    Plant("A", "best by max, in the record", EDITED, "best-by-wrong-direction", wrong_best),
    Plant("A", "norm after the step: Muon's buffer", EDITED, "gradient-norm-after-update",
          edited(orthogonal_norms, "optimizer=muon")),
    Plant("A", "norm after clipping", EDITED, "gradient-norm-after-update",
          edited(both(shown("train", "train/grad_norm", 1.0), shown("train", "train/log_pi", math.nan)))),
    Plant("A", "a key that nothing reads", EDITED, "key-without-effect",
          edited(setting("model.rope_tetha", 1e5))),
    Plant("A", "a typed key without effect", EDITED, "key-without-effect",
          edited(lambda run: run.identity["overrides"].append("data.stride=4"))),
    Plant("A", "one seed", EDITED, "one-seed",
          arms(setting("optimizer.lr", 1e-3), setting("optimizer.lr", 2e-3), seeds=1)),
    Plant("A", "Muon's rate untuned", EDITED, "untuned-rate",
          arms(setting("optimizer.lr", 1e-3), setting("optimizer.lr", 2e-3),
               setting("optimizer.update", {"_target_": "lmx.optim.Muon"}))),
    Plant("A", "rows sorted by length", REAL, "rows-not-shuffled", real(*ROWS, "data.shuffle=false")),
    Plant("A", "no separate test", EDITED, "no-test-split",
          edited(lambda run: run.identity["data"]["splits"].pop("test"))),
    # B
    Plant("B", "NoPE with RoPE left in", REAL, "identical-results", two_names),
    Plant("B", "NoPE with RoPE left in, by the self-test", EDITED, "positions-not-as-claimed",
          edited(known("self_test.sees_order", True), "model.position=none", *SHORT)),
    Plant("B", "steps counted as lines of the log", EDITED, "steps-miscounted",
          edited(lines_as_steps, "schedule=constant", *SHORT)),
    Plant("B", "evaluation on 20 random windows", REAL, "evaluation-not-whole-split",
          real("train.eval_windows=20")),
    Plant("B", "evaluation on part of the windows, in the record", EDITED, "evaluation-not-whole-split",
          lambda bench: audit_run(with_losses(timed(bench.run()), bench.empty(), 20))),
    Plant("B", "cosine longer than the run", REAL, "schedule-horizon", real("schedule.decay_steps=60")),
    Plant("B", "wall-clock with compilation", EDITED, "timing-includes-compilation", edited(compiled)),
    Plant("B", "validation on the training file", REAL, "validation-overlaps-train", same_file),
    Plant("B", "validation split is the train split", REAL, "validation-overlaps-train",
          from_file("data.holdout=none")),
    # C
    Plant("C", "28 updates", EDITED, "few-updates",
          arms(setting("optimizer.lr", 1e-3), setting("optimizer.lr", 2e-3), longer=1)),
    Plant("C", "no step-0 reference", REAL, "no-initial-evaluation", fine_tuned),
    Plant("C", "cosine part never logged", EDITED, "objective-part-not-logged",
          edited(lambda run: run.config["objective"].update(name="cosine_mix", kind="cosine_mix"))),
    # D
    Plant("D", "train loss equal to validation loss", EDITED, "train-equals-validation",
          edited(lambda run: [line.update({"train/loss": other["val/loss"]}) for line in run.of_kind("train")
                              for other in run.of_kind("val") if other["step"] == line["step"]])),
    Plant("D", "initial loss many times ln V", REAL, "initial-loss-far-from-ln-v",
          real("model.init=torch_default")),
    Plant("D", "unequal epochs compared", EDITED, "unequal-tokens",
          arms(setting("model.num_layers", 2), both(setting("model.num_layers", 4), twice_the_tokens))),
    Plant("D", "batch-mean validation", REAL, "evaluation-not-token-weighted",
          real("train.eval_mean=batches")),
    Plant("D", "mean of the windows' means, in the record", EDITED, "evaluation-not-token-weighted",
          lambda bench: audit_run(with_losses(timed(bench.run()), bench.empty(), 109, mean="windows"))),
    Plant("D", "perplexity of subwords beside words", EDITED, "different-tokenizers",
          beside(known("tokenizer.fingerprint", "x"))),
    Plant("D", "trailing space in a prompt", EDITED, "prompt-trailing-space",
          edited(setting("callbacks.samples.prompts", ["The history of India is "]))),
    # E
    Plant("E", "stride-1 windows split at random", REAL, "validation-overlaps-train",
          from_file("data.packing=stride", "data.stride=1", "data.holdout=windows")),
    Plant("E", "RoPE along the wrong axis", EDITED, "positions-not-as-claimed",
          edited(known("self_test.sees_order", False))),
    Plant("E", "warm-up without effect", EDITED, "rate-unlike-schedule",
          edited(both(setting("schedule.warmup_fraction", 0.0), setting("schedule.warmup_steps", 20)))),
    Plant("E", "one batch's loss as final", REAL, "final-loss-of-one-batch", real(*OFTEN)),
    Plant("E", "two settings changed at once", EDITED, "several-knobs",
          beside(setting("train.batch_size", 16))),
    Plant("E", "step time without synchronisation", EDITED, "timing-not-synchronised", edited(launch_times)),
    Plant("E", "no seed", EDITED, "no-seed",
          edited(lambda run: (run.config.pop("seed"), run.identity.pop("seed")))),
    # further points of the issue
    Plant("issue", "perplexity is not exp of the loss", EDITED, "perplexity-not-exp-loss",
          edited(shown("val", "val/perplexity", 30.0))),
    Plant("issue", "more than four passes, validation rises", EDITED, "many-passes", overfitted),
    Plant("issue", "wall-clock with evaluation", EDITED, "timing-includes-evaluation",
          edited(evaluation_in_the_clock, "train.log_every_steps=2", "train.eval_every_steps=6")),
    Plant("issue", "dead parameters", EDITED, "dead-parameters",
          edited(known("self_test.dead_parameters", ["blocks.1.norm.weight"]))),
    Plant("issue", "a group without a gradient", EDITED, "dead-parameters",
          edited(shown("train", "train/grad_norm/block_01", 0.0))),
    Plant("issue", "embeddings orthogonalised by Muon", REAL, "muon-on-embeddings",
          real("optimizer=muon", "optimizer.rest=null", "model.norm=none")),
    Plant("issue", "a position sees the future", EDITED, "sees-the-future",
          edited(known("self_test.sees_future", True))),
    Plant("issue", "a gradient twenty times as large as before", EDITED, "gradient-jumps", edited(jump)),
    Plant("issue", "below the corpus's entropy", EDITED, "below-entropy-floor",
          edited(lambda run: run.of_kind("val")[-1].update({"val/excess_bits_per_byte": -0.1}))),
    Plant("issue", "an interrupted run", EDITED, "unfinished",
          edited(lambda run: run.identity.update(status="interrupted"))),
    Plant("issue", "other validation texts compared", EDITED, "different-validation",
          beside(known("data.splits.validation.text_sha256", "ff"))),
    Plant("issue", "other data order", EDITED, "different-order",
          beside(lambda run: put(run, "seed", run.config["seed"] + 6))),
    Plant("issue", "other hardware", EDITED, "different-hardware",
          beside(known("hardware.device_name", "another"))),
    Plant("issue", "other code", EDITED, "different-code",
          beside(known("versions.torch", "2.0"))),
    Plant("issue", "a run of the comparison is not complete", EDITED, "unfinished-arms",
          beside(lambda run: run.identity.update(status="failed"))),
)  # fmt: skip

IN_REPORTS = [
    Plant(name[0].upper(), f"{fault}, in {layout(name)}", REPORT, code, report(name))
    for name, faults in FAULTY_REPORTS.items() for code, fault in faults.items()
]  # fmt: skip
PLANTED = sorted((*IN_RUNS, *IN_REPORTS), key=lambda plant: (len(plant.family), plant.family))

CLEAN: dict[str, Make] = {
    "the default kind of run": lambda bench: audit_run(bench.run()),
    "sentences, padding masked": real(*ROWS),
    "documents": real("data.packing=documents", "tokenizer=bpe", "tokenizer.vocab_size=400"),
    "text files, documents held out": from_file(),
    "Muon": lambda bench: audit_run(bench.run("optimizer=muon")),
    "no positions": real("model.position=none"),
    "post-norm": real("model.norm_position=post", "data.separator=none"),
    "constant rate": real("schedule=constant"),
    "fine-tuned, evaluated before": lambda bench: real(f"init_from={bench.run().path}")(bench),
    "two rates, two seeds": arms(setting("optimizer.lr", 1e-3), setting("optimizer.lr", 2e-3)),
    "two sizes, three seeds": arms(setting("model.num_layers", 2), setting("model.num_layers", 4), seeds=3),
    "two optimizers, each at two rates": arms(*(
        both(setting("optimizer.update", {"_target_": target}), setting("optimizer.lr", lr))
        for target in ("torch.optim.AdamW", "lmx.optim.Lion") for lr in (1e-3, 2e-3)
    )),
    "one arm, three seeds": arms(lambda run: None, seeds=3),
    **{f"family {name[0].upper()}, in {layout(name)}": report(name) for name in CLEAN_REPORTS},
}  # fmt: skip
