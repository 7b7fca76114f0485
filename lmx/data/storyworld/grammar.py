"""Prose with weighted choices: what it means, and why a text of it can be read in one way only.

    [sunny|3:cold|wet]   one of the alternatives, here with weights 1, 3, 1; they may nest
    <animal>             a word of the table `animal`
    <a animal>           the same after its article
    <animal@pet>         the same, kept in the slot `pet`
    <sound:pet>          a word of the table `sound:dog`, when the slot `pet` holds "dog"
    {pet}                the value of a slot

A slot is set once in a story and never changes. Bars outside of brackets part the whole prose.
No option of a choice begins with all of the text that tells another one: where two would clash, they are
split along the choices inside them until they differ. So a reader always knows which one was taken.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

_PIECES = re.compile(r"[\[\]|]|<[^>]*>|[^\[\]|<]+")
_DRAW = re.compile(r"<(?P<article>a )?(?P<table>\w+)(?::(?P<key>\w+))?(?:@(?P<slot>\w+))?>")
_BAR = re.compile(r"\|\s*\n\s*")
_WEIGHT = re.compile(r"(\d+):")


@dataclass(frozen=True, slots=True)
class Draw:
    """A word from a table; `key` names the slot that says which table, `slot` where the word is kept."""

    table: str
    key: str | None
    article: bool
    slot: str | None


@dataclass(frozen=True, slots=True)
class Option:
    """One way on: the text that tells it from its rivals, what follows, its share in bits, its label."""

    head: str
    rest: tuple[Node, ...]
    log2: float
    label: str


class Choice:
    """Options of which no head begins another's, and their shares."""

    __slots__ = ("_bounds", "_total", "options", "weights")

    def __init__(self, alternatives: Sequence[Alternative]) -> None:
        self.weights = [alternative.weight for alternative in alternatives]
        self._total = sum(self.weights)
        self._bounds = list(accumulate(self.weights))
        self.options = tuple(
            Option(one.head, one.rest, math.log2(one.weight / self._total), one.label) for one in alternatives
        )

    def at(self, share: float) -> Option:
        """The option that covers `share`, a number in [0, 1)."""
        return self.options[bisect(self._bounds, share * self._total)]


Node = str | Draw | Choice


@dataclass(frozen=True, slots=True)
class Alternative:
    """An option before its rivals are known: a relative weight, and nodes whose first text is apart."""

    weight: int
    head: str
    rest: tuple[Node, ...]
    label: str = ""


def _alternative(weight: int, nodes: Sequence[Node], label: str = "") -> Alternative:
    """Join neighbouring texts, so that the head is as long as it can be."""
    joined: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and joined and isinstance(joined[-1], str):
            joined[-1] += node
        elif node != "":
            joined.append(node)
    if joined and isinstance(joined[0], str):
        return Alternative(weight, joined[0], tuple(joined[1:]), label)
    return Alternative(weight, "", tuple(joined), label)


class Grammar:
    """Tables of words, and the prose parsed so far.

    Args:
        tables: name → alternatives as prose, for example ``{"animal": "3:cat|dog"}``.
    """

    def __init__(self, tables: Mapping[str, str]) -> None:
        self.tables = tables
        self._prose: dict[str, tuple[Node, ...]] = {}
        self._labelled: dict[tuple[tuple[str, str], ...], Choice] = {}
        self._words: dict[tuple[str, bool], Choice] = {}

    def prose(self, text: str) -> tuple[Node, ...]:
        """Parse prose. White space of any length is one space, and none after a bar that ends a line."""
        nodes = self._prose.get(text)
        if nodes is None:
            nodes = self._prose[text] = self._nodes(self._alternatives(text))
        return nodes

    def labelled(self, prose: tuple[tuple[str, str], ...]) -> Choice:
        """The choice between all alternatives of all (label, prose) pairs."""
        choice = self._labelled.get(prose)
        if choice is None:
            found = [
                Alternative(one.weight, one.head, one.rest, label)
                for label, text in prose
                for one in self._alternatives(text)
            ]
            choice = self._labelled[prose] = self._choice(found)
        return choice

    def words(self, name: str, article: bool = False) -> Choice:
        """The choice between the words of a table, each after its article where one is asked for."""
        choice = self._words.get((name, article))
        if choice is None:
            found = self._alternatives(self.tables[name])
            if article:
                found = [Alternative(one.weight, _with_article(one.head), one.rest) for one in found]
            choice = self._words[name, article] = self._choice(found)
        return choice

    def choices(self) -> Iterator[Choice]:
        """Every choice parsed so far, nested ones too."""
        pending: list[Node] = [node for nodes in self._prose.values() for node in nodes]
        pending += [*self._labelled.values(), *self._words.values()]
        while pending:
            node = pending.pop()
            if isinstance(node, Choice):
                yield node
                pending += [child for option in node.options for child in option.rest]

    def _choice(self, alternatives: list[Alternative]) -> Choice:
        """Split alternatives until no head begins another."""
        while True:
            alternatives = sorted(alternatives, key=lambda one: one.head)
            clash = next(
                (
                    i
                    for i in range(len(alternatives) - 1)
                    if alternatives[i + 1].head.startswith(alternatives[i].head)
                ),
                None,
            )
            if clash is None:
                return Choice(alternatives)
            # of two equal heads, the one that can be split
            if not alternatives[clash].rest and alternatives[clash].head == alternatives[clash + 1].head:
                clash += 1
            alternatives = self._split(alternatives, clash)

    def _split(self, alternatives: list[Alternative], index: int) -> list[Alternative]:
        """Put in the place of one alternative those of the choice that follows its head, at equal odds."""
        one = alternatives[index]
        inner = one.rest[0] if one.rest else None
        if isinstance(inner, Draw) and inner.key is None and inner.slot is None:
            inner = self.words(inner.table, inner.article)
        assert isinstance(inner, Choice), f"{one.head!r} begins another option and has no choice to split"
        total = sum(inner.weights)
        others = [
            Alternative(it.weight * total, it.head, it.rest, it.label) for it in alternatives if it is not one
        ]
        parts = [
            _alternative(one.weight * weight, [one.head, option.head, *option.rest, *one.rest[1:]], one.label)
            for weight, option in zip(inner.weights, inner.options, strict=True)
        ]
        return others + parts

    def _alternatives(self, text: str) -> list[Alternative]:
        """Parse prose into weighted alternatives."""
        pieces = _PIECES.findall(" ".join(_BAR.sub("|", text).split()))
        alternatives = self._parse(pieces)
        assert not pieces, f"a bracket closes that was never opened: {text!r}"
        return alternatives

    def _parse(self, pieces: list[str]) -> list[Alternative]:
        """Take pieces up to the bracket that closes this level."""
        alternatives: list[Alternative] = []
        weight, nodes = _weight(pieces), list[Node]()
        while pieces and pieces[0] != "]":
            piece = pieces.pop(0)
            if piece == "|":
                alternatives.append(_alternative(weight, nodes))
                weight, nodes = _weight(pieces), []
            elif piece == "[":
                nodes += self._nodes(self._parse(pieces))
                assert pieces, "a bracket is never closed"
                pieces.pop(0)
            elif found := _DRAW.fullmatch(piece):
                nodes.append(Draw(found["table"], found["key"], found["article"] is not None, found["slot"]))
            else:
                assert "<" not in piece, f"not a draw: {piece}"
                nodes.append(piece)
        return [*alternatives, _alternative(weight, nodes)]

    def _nodes(self, alternatives: list[Alternative]) -> tuple[Node, ...]:
        """One alternative is plain prose; several are a choice."""
        if len(alternatives) > 1:
            return (self._choice(alternatives),)
        only = alternatives[0]
        return (only.head, *only.rest) if only.head else only.rest


def _weight(pieces: list[str]) -> int:
    """Take the weight, where one is written, off the first piece."""
    found = _WEIGHT.match(pieces[0]) if pieces else None
    if found is None:
        return 1
    pieces[0] = pieces[0][found.end() :]
    if not pieces[0]:
        pieces.pop(0)
    return int(found[1])


def _with_article(word: str) -> str:
    assert word, "a word after an article begins with a letter, not with a choice"
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
