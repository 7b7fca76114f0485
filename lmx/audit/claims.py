"""The figures that a report gives, under the names of this project: what stands together is one group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmx.audit.markdown import DEEPEST, Line, Section, Table, plain
from lmx.audit.names import NUMBER, Key, Quantity, is_number, key_of, qualified, quantity

LONGEST = 2000  # characters of a line that are read: what is longer is no sentence
_PAIR = re.compile(rf"([^\W\d][\w /.·-]*?)\s*(?:\([^()]*\))?\s*([:=]|\s)\s*(?=[~≈]?\s*{NUMBER})")
_BEFORE = re.compile(rf"({NUMBER}\s*[kKMB]?)\s+(layers|heads|parameters|params)\b")
_BEST = re.compile(r"best so far|new best|\(best\)|\bbest\s*[!✓*]|[★✅]|← ?best", re.IGNORECASE)
# a line of a list, or one that begins with what it is about; in prose a number beside a name may be another's
_LISTED = re.compile(
    r"\s*([-*+•]|\d+[.)])\s|\W*(best|final|initial|lowest)\b|[\w /-]{2,30}:\s", re.IGNORECASE
)
_EPOCH = re.compile(r"^\W*(?:epoch|step|iter|iteration)\W{0,3}\d", re.IGNORECASE)


@dataclass
class Group:
    """Figures that stand together: a row of a table, a line, an object of JSON, or the pairs of a section."""

    kind: str  # row, line, json or pairs
    title: str
    values: dict[Key, Quantity]
    number: int
    best: bool = False  # marked as the best so far
    cells: list[str] = field(default_factory=list)

    def get(self, name: str, split: str = "", when: str = "") -> Quantity | None:
        """Return a figure by its name."""
        return self.values.get(Key(name, split, when))


@dataclass
class Claims:
    """What a section says: its groups, and series of groups that belong together (a table, epoch lines)."""

    section: Section
    groups: list[Group] = field(default_factory=list)
    series: list[list[Group]] = field(default_factory=list)


def claims_of(root: Section) -> list[Claims]:
    """Return what each section of a document says."""
    return [_claims(section) for section in root.walk()]


def _claims(section: Section) -> Claims:
    claims = Claims(section)
    for number, value in section.data:
        groups = list(_from_json(value, number, section.title))
        claims.groups += groups
        claims.series += [groups] if len(groups) > 1 else []
    for table in section.tables:
        groups = _from_table(table, section.title)
        claims.groups += groups
        claims.series += [groups] if len(groups) > 1 else []
    _from_lines(section, claims)
    return claims


# ---- tables


def _from_table(table: Table, title: str) -> list[Group]:
    if len(table.header) == 2 and not key_of(table.header[1]):  # a list of settings, written as a table
        values: dict[Key, Quantity] = {}
        for name, text in [table.header, *table.rows]:
            _put(values, key_of(name), quantity(text))
        if values:
            return [Group("pairs", title, values, table.number)]
    groups = []
    for at, row in enumerate(table.rows):
        values = {}
        for header, text in zip(table.header, row, strict=True):
            _put_cell(values, header, text)
        label = next((text for text in row if text and quantity(text) is None), row[0] if row else "")
        marked = bool(_BEST.search(" ".join(row)))
        groups.append(Group("row", label, values, table.number + 2 + at, marked, row))
    return [group for group in groups if group.values]


def _put_cell(values: dict[Key, Quantity], header: str, text: str) -> None:
    key, names, parts = key_of(header), header.split("/"), text.split("/")
    if len(names) == len(parts) > 1 and all(map(quantity, parts)):  # d/heads/ff/L: 16/2/64/2
        for name, part in zip(names, parts, strict=True):
            _put(values, key_of(name), quantity(part))
        return
    _put(values, key, quantity(text))


def _put(values: dict[Key, Quantity], key: Key | None, value: Quantity | None) -> None:
    if key is not None and value is not None and key.when != "other":
        values.setdefault(key, value)


# ---- JSON


def _from_json(value: Any, number: int, title: str, depth: int = 0) -> Iterator[Group]:
    """Yield a group for each object; objects that hold the same keys as their neighbours are rows."""
    if depth > DEEPEST:
        return
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _from_json(item, number, f"{title} {at + 1}".strip(), depth + 1)
        return
    if not isinstance(value, dict):
        return
    values: dict[Key, Quantity] = {}
    rows: list[tuple[str, Any]] = []
    _flatten(value, "", values, rows, depth)
    if values:
        yield Group("json", title, values, number)
    for name, row in rows:
        yield from _from_json(row, number, name, depth + 1)


def _flatten(
    value: dict[str, Any], parent: str, values: dict[Key, Quantity], rows: list[tuple[str, Any]], depth: int
) -> None:
    alike = _alike([item for item in value.values() if isinstance(item, dict)])
    for name, item in value.items():
        if isinstance(item, dict) and not alike and depth < DEEPEST:
            _flatten(item, name, values, rows, depth + 1)
        elif isinstance(item, dict | list):
            rows.append((str(name), item))
        elif not isinstance(item, bool) and isinstance(item, int | float | str):
            key = key_of(f"{parent} {name}") or key_of(str(name))
            text = repr(item) if isinstance(item, float) else str(item)
            _put(values, key, quantity(text) if isinstance(item, int | float) or is_number(item) else None)


def _alike(objects: list[dict[str, Any]]) -> bool:
    """Whether objects are rows of one table: two or more with most of their keys in common."""
    if len(objects) < 2:
        return False
    common = set.intersection(*(set(item) for item in objects))
    return bool(common) and 2 * len(common) >= max(len(item) for item in objects)


# ---- lines


def _from_lines(section: Section, claims: Claims) -> None:
    pairs: dict[Key, Quantity] = {}
    first = section.number
    epochs: list[Group] = []
    for line in section.lines:
        values = _from_line(line)
        if not values:
            continue
        if _EPOCH.match(plain(line.text[:LONGEST])):
            epochs.append(Group("line", section.title, values, line.number, bool(_BEST.search(line.text))))
            continue
        claims.groups.append(Group("line", section.title, values, line.number))
        for key, value in values.items():
            first = line.number if not pairs else first
            pairs.setdefault(key, value)
    if pairs:
        claims.groups.append(Group("pairs", section.title, pairs, first))
    claims.groups += epochs
    claims.series += [epochs] if len(epochs) > 1 else []


def _from_line(line: Line) -> dict[Key, Quantity]:
    """Return `key: number`, `key=number` and, in lists and lines of epochs, `key number` and `12 layers`."""
    text = plain(line.text[:LONGEST].replace("|", " , "))
    listed = bool(_LISTED.match(line.text) or _EPOCH.match(text) or " | " in line.text)
    split = when = ""
    values: dict[Key, Quantity] = {}
    end = 0
    for match in _PAIR.finditer(text):
        before = text[end : match.end(1)].lower()
        split, when = qualified(re.sub(r"[^\w ]+|_", " ", before).split(), split, when)
        if match[2] in ":=" or listed:
            key = key_of(match[1], split, when)
            value = quantity(text[match.end() :])
            _put(values, key, value)
        end = match.end()
    if listed or ":" in text:
        for match in _BEFORE.finditer(text):
            _put(values, key_of(match[2]), quantity(match[1]))
    return values
