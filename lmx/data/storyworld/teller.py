"""The two tellers that run a story program: one writes a text, the other reads one.

Every random choice of a program goes through its teller, so the same program says which texts there are,
how likely each is, and what it was that led to a given text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random

from lmx.data.storyworld.grammar import Choice, Draw, Grammar, Node, Option


class Teller(ABC):
    """Says what is certain, chooses where the story branches, adds up the log-probability.

    Attributes:
        slots: what the story has fixed so far, by name.
        log2_probability: of all choices made so far, in bits (≤ 0).
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.slots: dict[str, str] = {}
        self.log2_probability = 0.0
        self._gap = ""

    @abstractmethod
    def _say(self, text: str) -> None:
        """Pass over a text that is certain, whose slots are still to be filled."""

    @abstractmethod
    def _select(self, choice: Choice) -> Option:
        """Return the option that is taken; its head is not passed over yet."""

    @abstractmethod
    def _position(self) -> int:
        """How far the story is told."""

    @abstractmethod
    def _said_since(self, position: int) -> str:
        """The text from a position on, slots filled."""

    def tell(self, prose: str) -> None:
        """Tell prose, after a space unless a paragraph begins."""
        self._separate()
        self._run(self.grammar.prose(prose))

    def decide(self, **prose: str) -> str:
        """Tell one of the alternatives of all the prose given; return the label it stands under."""
        self._separate()
        return self._take(self.grammar.labelled(tuple(prose.items())))

    def paragraph(self) -> None:
        """Begin a new paragraph."""
        self._gap = "\n"

    def know(self, **facts: str) -> None:
        """Set slots without a word."""
        assert not self.slots.keys() & facts.keys(), "a slot is set once"
        self.slots.update(facts)

    def _separate(self) -> None:
        if self._gap:
            self._say(self._gap)
        self._gap = " "

    def _take(self, choice: Choice) -> str:
        option = self._select(choice)
        self.log2_probability += option.log2
        self._say(option.head)
        if option.rest:
            self._run(option.rest)
        return option.label

    def _run(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            if isinstance(node, str):
                self._say(node)
            elif isinstance(node, Choice):
                self._take(node)
            else:
                self._draw(node)

    def _draw(self, draw: Draw) -> None:
        name = draw.table if draw.key is None else f"{draw.table}:{self.slots[draw.key]}"
        choice = self.grammar.words(name, draw.article)
        if draw.slot is None:
            self._take(choice)
            return
        start = self._position()
        self._take(choice)
        said = self._said_since(start)
        self.know(**{draw.slot: said.split(" ", 1)[1] if draw.article else said})


class Writer(Teller):
    """Writes a story, choosing with a random generator."""

    def __init__(self, grammar: Grammar, rng: Random) -> None:
        super().__init__(grammar)
        self._random = rng.random
        self._parts: list[str] = []

    def _say(self, text: str) -> None:
        self._parts.append(text)

    def _select(self, choice: Choice) -> Option:
        return choice.at(self._random())

    def _position(self) -> int:
        return len(self._parts)

    def _said_since(self, position: int) -> str:
        return "".join(self._parts[position:]).format_map(self.slots)

    def text(self) -> str:
        """The story so far. Slots never change, so all are filled at once."""
        return self._said_since(0)


class NotDerivedError(Exception):
    """The text read is none that the program can write."""


class Reader(Teller):
    """Reads a story: takes, at each choice, the one option with which the text goes on.

    Raises:
        NotDerivedError: where no option fits.
    """

    def __init__(self, grammar: Grammar, text: str) -> None:
        super().__init__(grammar)
        self._text = text
        self._read = 0

    def _length(self, text: str) -> int:
        """Length of the text with its slots filled if the story goes on with it, otherwise -1."""
        filled = text.format_map(self.slots)
        return len(filled) if self._text.startswith(filled, self._read) else -1

    def _say(self, text: str) -> None:
        length = self._length(text)
        if length < 0:
            raise NotDerivedError
        self._read += length

    def _select(self, choice: Choice) -> Option:
        fitting = [option for option in choice.options if self._length(option.head) >= 0]
        assert len(fitting) <= 1, f"two ways on: {[option.head for option in fitting]}"
        if not fitting:
            raise NotDerivedError
        return fitting[0]

    def _position(self) -> int:
        return self._read

    def _said_since(self, position: int) -> str:
        return self._text[position : self._read]

    def finish(self) -> None:
        """Check that nothing of the text is left."""
        if self._read != len(self._text):
            raise NotDerivedError
