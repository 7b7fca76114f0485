"""Agreement with transformers as a table: `python -m pytest tests/model/test_agreement_table.py -s`.

docs/agreement.md holds the table as it was measured.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from model_helpers import random_tokens, relative_difference
from pairs import CASES, build_pair, gradients, padded_logits
from torch import Tensor

from lmx.model import Decoder

FP32_LIMIT = 1e-5
HEADER = (
    "| family | dtype | shapes | logits | gradients | logits: lmx from fp32 | transformers from fp32 "
    "| gradients: lmx from fp32 | transformers from fp32 |"
)
PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"


@dataclass
class Row:
    """Largest relative differences of one family in one dtype."""

    family: str
    dtype: str
    shapes: int = 0
    logits: float = 0.0
    gradients: float = 0.0
    # distance of each side in this dtype from transformers in fp32
    our_logits: float = 0.0
    their_logits: float = 0.0
    our_gradients: float = 0.0
    their_gradients: float = 0.0

    def add(self, seen: Seen, exact: Seen) -> None:
        """Take in one shape."""
        self.shapes += 1
        self.logits = max(self.logits, *(relative_difference(*pair) for pair in seen.logits))
        self.gradients = max(self.gradients, *(relative_difference(*pair) for pair in seen.gradients))
        for what in ("logits", "gradients"):
            true = [theirs for _, theirs in getattr(exact, what)]
            for side, name in enumerate((f"our_{what}", f"their_{what}")):
                found = distance([pair[side] for pair in getattr(seen, what)], true)
                setattr(self, name, max(getattr(self, name), found))

    def text(self) -> str:
        """Return the row of the table; fp32 is what rounding is measured from."""
        figures = [self.logits, self.gradients]
        rounding = [self.our_logits, self.their_logits, self.our_gradients, self.their_gradients]
        shown = [f"{x:.1e}" for x in figures] + [f"{x:.1e}" if self.dtype != "fp32" else "" for x in rounding]
        return f"| {self.family} | {self.dtype} | {self.shapes} | {' | '.join(shown)} |"


@dataclass
class Seen:
    """What both sides, ours first, gave for one shape in one dtype, in fp32."""

    logits: list[tuple[Tensor, Tensor]]  # of one token, a few, a full context and a padded batch
    gradients: list[tuple[Tensor, Tensor]]  # of each parameter


def distance(got: list[Tensor], true: list[Tensor]) -> float:
    """Relative L2 distance over all of them: one entry next to a kink of relu says nothing."""
    squares = sum(((a - b) ** 2).sum() for a, b in zip(got, true, strict=True))
    return float((squares / sum((b**2).sum() for b in true)) ** 0.5)


def look(theirs: Any, ours: Decoder) -> Seen:
    with torch.no_grad():
        logits = [
            (ours.logits(ours(x)), theirs(x).logits)
            for x in (random_tokens(3, length, seed=length) for length in (1, 7, 16))
        ]
        logits += [padded_logits(theirs, ours, random_tokens(3, 9), torch.tensor([0, 4, 8]))]
    # a key's bias hardly has a gradient: softmax does not see what all keys share
    found = gradients(theirs, ours, random_tokens(2, 16)).items()
    pairs = [pair for name, pair in found if not name.endswith("attention.key.bias")]
    return Seen(*([(a.float(), b.float()) for a, b in each] for each in (logits, pairs)))


def test_the_table(tmp_path: Path) -> None:
    rows: dict[tuple[str, str], Row] = {}
    for name, (family, _) in CASES.items():
        theirs, ours = build_pair(name, tmp_path / name)
        exact = look(theirs, ours)
        rows.setdefault((family, "fp32"), Row(family, "fp32")).add(exact, exact)
        rounded = look(copy.deepcopy(theirs).bfloat16(), copy.deepcopy(ours).bfloat16())
        rows.setdefault((family, "bf16"), Row(family, "bf16")).add(rounded, exact)
    print(f"\n\n{HEADER}\n|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows.values():
        print(row.text())
    for row in rows.values():
        if row.dtype == "fp32":
            assert max(row.logits, row.gradients) <= FP32_LIMIT, row
        else:
            assert row.our_logits <= 1.5 * row.their_logits, row
            assert row.our_gradients <= 1.5 * row.their_gradients, row


def test_the_page_has_the_same_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert HEADER in page
    rows = re.findall(r"^\| (\w+) \| (fp32|bf16) \| (\d+) \|", page, re.MULTILINE)
    families = [family for family, _ in CASES.values()]
    expected = [(f, d, str(families.count(f))) for f in dict.fromkeys(families) for d in ("fp32", "bf16")]
    assert sorted(rows) == sorted(expected)
