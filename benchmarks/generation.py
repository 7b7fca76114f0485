"""Greedy generation, lmx against transformers: `python -m benchmarks.generation [STORIES]`.

STORIES is the folder of the stories260K checkpoint; without it only the 124M shape of GPT-2 runs, with
random weights. Both sides have the same weights and a cache, in one process, in turn, on the CPU, with one
prompt of eight tokens; the text of both must be the same in every round. Beside the time stands the work, the
time of all cores together: it depends less on what else the machine does.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from lmx.config import ModelConfig
from lmx.config.compose import compose
from lmx.model import Decoder, GenerationOptions, generate, lay_out_for_generation
from lmx.model.from_transformers import from_transformers
from lmx.model.to_transformers import save_transformers

ROUNDS = 7
PROMPT = 8  # tokens


def main(folders: list[str]) -> None:
    """Print one row a model and side: medians, spread and the median of the rounds' ratios."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads; fp32, ms a token, {ROUNDS} rounds in turn\n")
    print("| model | tokens | side | time | min–max | / lmx's | work | min–max | / lmx's |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for folder in folders:
        print_rows("stories260K", Path(folder), 200)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_transformers(Decoder(gpt2_shape()), Path(folder))
        print_rows("GPT-2 124M", Path(folder), 64)


def gpt2_shape() -> ModelConfig:
    """Return GPT-2's configuration with its vocabulary."""
    config = compose(["model=gpt2_small"]).model
    config.vocab_size = 50_257
    return config


def print_rows(name: str, folder: Path, new_tokens: int) -> None:
    """Measure one checkpoint on both sides and print their figures."""
    sides = compare(folder, new_tokens)
    for side in sides:
        cells = []
        for which in (0, 1):  # time, work
            own, reference = ([one[which] for one in sides[key]] for key in (side, "lmx"))
            ratio = statistics.median(a / b for a, b in zip(own, reference, strict=True))
            low, middle, high = (1000 * f(own) / new_tokens for f in (min, statistics.median, max))
            cells += [f"{middle:.2f}", f"{low:.2f}–{high:.2f}", f"{ratio:.2f}"]
        print(f"| {name} | {new_tokens} | {side} | {' | '.join(cells)} |", flush=True)


def compare(folder: Path, new_tokens: int) -> dict[str, list[tuple[float, float]]]:
    """Return (seconds, seconds of work) of each round of each side; asserts that both write the same."""
    from transformers import AutoModelForCausalLM

    model = lay_out_for_generation(from_transformers(str(folder)).eval())  # as `lmx.generate` does
    other = AutoModelForCausalLM.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, model.embedding.num_embeddings, (1, PROMPT), generator=generator)
    # neither side stops early: both write the same number of tokens
    other.generation_config.eos_token_id = None
    options = GenerationOptions(max_new_tokens=new_tokens, temperature=0.0)

    def theirs() -> list[list[int]]:
        mask = torch.ones_like(prompt)
        written: list[list[int]] = other.generate(
            prompt, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False
        ).tolist()
        return written

    sides = {"lmx": lambda: generate(model, prompt.tolist(), options), "transformers": theirs}
    measured: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        texts = []
        for side, write in sides.items():
            begun, worked = time.perf_counter(), time.process_time()
            texts.append(write())
            if number:  # the first warms up
                measured[side].append((time.perf_counter() - begun, time.process_time() - worked))
        assert texts[0] == texts[1]
    return measured


if __name__ == "__main__":
    main(sys.argv[1:])
