"""A Markdown report as a tree of sections with their lines, tables and data. Any text is a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\w*)")
_RULE = re.compile(r"\s*:?-+:?\s*")
DEEPEST = 50  # levels of nesting that JSON of a report has at most; a deeper one is no configuration


@dataclass(frozen=True)
class Line:
    """One line of text outside tables and data."""

    number: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table: its header and rows of cells, without Markdown marks."""

    header: list[str]
    rows: list[list[str]]
    number: int  # of the header's line


@dataclass
class Section:
    """A heading and what stands beneath it, up to the next heading of its level."""

    title: str
    level: int
    number: int
    lines: list[Line] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    data: list[tuple[int, Any]] = field(default_factory=list)  # parsed JSON blocks
    children: list[Section] = field(default_factory=list)

    def walk(self) -> Iterator[Section]:
        """Yield this section and all beneath it, in order."""
        waiting = [self]
        while waiting:
            section = waiting.pop()
            yield section
            waiting.extend(reversed(section.children))


def parse(text: str) -> Section:
    """Return the root section of a document, level 0, which holds what stands before the first heading."""
    root = Section("", 0, 1)
    path = [root]
    block: list[Line] | None = None
    fence = ""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        mark = _FENCE.match(line)
        if block is not None:
            if mark and mark[1].startswith(fence) and not mark[2]:
                _close(path[-1], block)
                block = None
            else:
                block.append(Line(number, line))
        elif mark:
            block, fence = [], mark[1]
        elif heading := _HEADING.match(line):
            section = Section(plain(heading[2]), len(heading[1]), number)
            while path[-1].level >= section.level:
                path.pop()
            path[-1].children.append(section)
            path.append(section)
        elif "|" in line and at < len(lines) and _is_rule(lines[at]):
            at = _table(path[-1], lines, at - 1)
        else:
            path[-1].lines.append(Line(number, line))
    if block is not None:  # a fence that nothing ends
        _close(path[-1], block)
    return root


def plain(text: str) -> str:
    """Take emphasis, code marks and links out of a text."""
    text = re.sub(r"\[([^\[\]]{0,300})\]\([^()]{0,300}\)", r"\1", text)
    return re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", text).strip()


def cells(line: str) -> list[str]:
    """Return the cells of a table's line."""
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    return [plain(cell.replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", inner)]


def _is_rule(line: str) -> bool:
    parts = line.strip().strip("|").split("|")
    return "-" in line and all(_RULE.fullmatch(part) for part in parts)


def _table(section: Section, lines: list[str], at: int) -> int:
    """Read the table whose header is at `at`; return where the text goes on."""
    header, start = cells(lines[at]), at + 1
    at += 2
    rows = []
    while at < len(lines) and "|" in lines[at]:
        row = cells(lines[at])
        rows.append((row + [""] * len(header))[: len(header)])
        at += 1
    section.tables.append(Table(header, rows, start))
    return at


def _close(section: Section, block: list[Line]) -> None:
    """Keep a code block: parsed where it is JSON, else as lines."""
    try:
        value = json.loads("\n".join(line.text for line in block))
    except (ValueError, RecursionError):
        section.lines += block
        return
    if isinstance(value, dict | list):
        section.data.append((block[0].number, value))
