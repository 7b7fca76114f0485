"""The figures that a report gives, under the names of this project: what stands together is one group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lmx.audit.markdown import DEEPEST, Line, Section, Table, plain
from lmx.audit.names import NUMBER, SETTINGS, Key, Quantity, is_number, key_of, qualified, quantity

# the title of the arm that others are compared with: `baseline`, `2. Baseline (pre-norm)`, `Run 1 - baseline`
BASELINE = re.compile(
    r"(?:^\W*|[:.(]\s*|\s[-–—]\s+)(?:the )?baseline\b(?!\W*(?:vs|versus|against|and|compar))", re.IGNORECASE
)
_COUNTED = {"tokens", "parameters", "ratio", "epoch", "step"}  # follow from settings, or are a place in a run
COUNTS = 1000  # a number of parameters is larger, a ratio is not
LONGEST = 2000  # characters of a line that are read: what is longer is no sentence
_PAIR = re.compile(rf"([^\W\d][\w /.·-]{{0,80}}?)\s*(?:\([^()]*\))?\s*([:=]|\s)\s*(?=[~≈]?\s*{NUMBER})")
# a number, not the end of a range, before what it counts
_BEFORE = re.compile(rf"(?<![\w.,])(?<!\d[-–])({NUMBER}\s*[kKMB]?)\s+(layers|heads|parameters|params)\b")
_BEST = re.compile(r"best (?:\w+ )?so far|new best|\(best\)|\bbest\s*[!✓*]|[★✅]|← ?best", re.IGNORECASE)
_ITEM = re.compile(r"\s*([-*+•]|\d+[.)])\s")
# a line of a list, or one that begins with what it is about; in prose a number beside a name may be another's
_LISTED = re.compile(_ITEM.pattern + r"|\W*(best|final|initial|lowest)\b|[\w /-]{2,30}:\s", re.IGNORECASE)
_EPOCH = re.compile(r"^\W*(?:epoch|step|iter|iteration)\W{0,3}\d", re.IGNORECASE)
_CHANGE = re.compile(r"Δ|\b(?:delta|diff\w*|change|improvement|gain)\b", re.IGNORECASE)
_NAMED = re.compile(r"\W*[a-z]+\W{0,3}\d[\d,]*(?:\s*(?:/|of)\s*\d[\d,]*)?\W*", re.IGNORECASE)  # `Epoch 2:`
_STATED = re.compile(r"\W*[a-z]+\W*[:=]\W*\d[\d,]*\W*", re.IGNORECASE)  # `Step: 7,063`
_OBJECT = re.compile(r"\{([^{}]*)\}")
_QUOTE = re.compile(r"[\"'](?=\s*[:=])")  # that ends a quoted key
_TERM = rf"{NUMBER}(?: ?(?:[kKMBT]|million|billion)\b)?(?:\s+(?:\w+\s+)?(?:tokens|param\w*|steps)\b)?"
_QUOTIENT = re.compile(rf"\s*({_TERM})\s*[/÷]\s*({_TERM})")
# the way to a result, `242,643 / 869,153 =`
_CAME_FROM = re.compile(rf"(?<![\w.,]){NUMBER}\s*(?:→|->)\s*(?={NUMBER})")  # `128 → 256`
_WORKED_OUT = re.compile(rf"(?<![\w.,]){_TERM}\s*[/÷]\s*{_TERM}\s*[=≈]\s*(?=[~≈]?\s*{NUMBER})")


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

    @property
    def settings(self) -> dict[str, Quantity]:
        """Return its settings by name."""
        return {k.name: value for k, value in self.values.items() if k.name in SETTINGS and not k.when}


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


def completed(own: dict[str, Quantity], baseline: dict[str, Quantity]) -> dict[str, Quantity]:
    """Add the baseline's settings to those of an arm that lists only what differs.

    An arm gives some setting that its baseline gives too; what gives none is no arm, and stays as it is.
    """
    left = _COUNTED | {"total_steps"} if "tokens" in baseline else _COUNTED
    given = {name: value for name, value in baseline.items() if name not in left}
    return given | own if given.keys() & own.keys() else own


def _complete(rows: list[Group]) -> None:
    base = next((row for row in rows if BASELINE.search(row.title)), None)
    if base is None:
        return
    for row in rows:
        settings = completed(row.settings, base.settings)
        row.values |= {Key(name): value for name, value in settings.items()}


# ---- tables


def _from_table(table: Table, title: str) -> list[Group]:
    if len(table.header) == 2 and not key_of(table.header[1]):  # a list of settings, written as a table
        values: dict[Key, Quantity] = {}
        for name, text in [table.header, *table.rows]:
            _put(values, key_of(name), quantity(text))
        if values:
            return [Group("pairs", title, values, table.number)]
    table = _upright(table)
    groups = []
    for at, row in enumerate(table.rows):
        values = {}
        for header, text in zip(table.header, row, strict=True):
            _put_cell(values, header, text)
        label = next((text for text in row if text and quantity(text) is None), row[0] if row else "")
        marked = bool(_BEST.search(" ".join(row)))
        groups.append(Group("row", label, values, table.number + 2 + at, marked, row))
    groups = [group for group in groups if group.values]
    _complete(groups)
    return groups


def _upright(table: Table) -> Table:
    """Turn a table whose first column holds the names: `Metric | run 1 | run 2`."""
    names = [row[0] for row in table.rows]
    heads = table.header[1:]
    arms = [at for at, head in enumerate(heads, 1) if head and not _CHANGE.search(head)]
    told = [_told(head, "", "") for head in heads]
    if (
        len(arms) < 2
        or sum(key_of(name) is not None for name in names) < 2
        or any(map(key_of, heads))
        or any(split or when not in ("", "other") for split, when in told)
    ):
        return table
    rows = [[table.header[at], *(row[at] for row in table.rows)] for at in arms]
    return Table([table.header[0], *names], rows, table.number)


def _put_cell(values: dict[Key, Quantity], header: str, text: str) -> None:
    key, names, parts = key_of(header), header.split("/"), text.split("/")
    several = len(names) == len(parts) > 1 and all(map(quantity, parts))
    if several and key != Key("ratio"):  # d/heads/ff/L: 16/2/64/2
        for name, part in zip(names, parts, strict=True):
            _put(values, key_of(name), quantity(part))
        return
    _put(values, key, _figure(key, text))


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
    tables: list[dict[str, Any]] = []
    unclear: set[Key] = set()
    for key, figure in _flatten(value, "", tables, depth):
        unclear |= {key} if key in values and _contradict(key, figure, values[key]) else set()
        _put(values, key, figure)
    values = {key: figure for key, figure in values.items() if key not in unclear}
    if values:
        yield Group("json", title, values, number)
    for table in tables:
        rows = [list(_from_json(row, number, name, depth + 1)) for name, row in table.items()]
        _complete([groups[0] for groups in rows if groups])
        for groups in rows:
            yield from groups


def _flatten(
    value: dict[str, Any], parent: str, tables: list[dict[str, Any]], depth: int
) -> Iterator[tuple[Key, Quantity]]:
    """Yield the figures of an object and of the objects in it; what is rows goes into `tables`."""
    objects = {name: item for name, item in value.items() if isinstance(item, dict)}
    rows = objects if _are_rows(objects) or depth >= DEEPEST else {}
    if rows:
        tables.append(rows)
    for name, item in value.items():
        if name in rows:
            continue
        if isinstance(item, dict):
            yield from _flatten(item, name, tables, depth + 1)
        elif isinstance(item, list):
            tables.append({name: item})
        elif not isinstance(item, bool) and isinstance(item, int | float | str):
            key = key_of(f"{parent} {name}") or key_of(str(name))
            text = repr(item) if isinstance(item, float) else str(item)
            figure = quantity(text) if isinstance(item, int | float) or is_number(item) else None
            if key is not None and figure is not None:
                yield key, figure


def _are_rows(objects: dict[str, dict[str, Any]]) -> bool:
    """Whether objects are rows of a table: two or more with most keys in common, or beside a baseline."""
    if len(objects) < 2:
        return False
    common = set.intersection(*map(set, objects.values()))
    alike = bool(common) and 2 * len(common) >= max(map(len, objects.values()))
    return alike or any(map(BASELINE.search, objects))


# ---- lines


def _from_lines(section: Section, claims: Claims) -> None:
    pairs: dict[Key, Quantity] = {}
    first = section.number
    epochs: list[Group] = []
    unclear: set[Key] = set()
    for block in _blocks(_equations(section.lines)):
        epoch = _is_epoch(block[0].text)
        found = [values for line in block for values in _from_line(line, epoch) if values]
        if found and epoch:
            point = {key: value for values in reversed(found) for key, value in values.items()}
            best = any(_BEST.search(line.text) for line in block)
            group = Group("line", section.title, point, block[0].number, best)
            if epochs and _one_epoch(epochs[-1], group):
                group.values = epochs.pop().values | group.values
            epochs.append(group)
            continue
        for values in found:
            claims.groups.append(Group("line", section.title, values, block[0].number))
            first = block[0].number if not pairs else first
            unclear |= {key for key in values if key in pairs and _contradict(key, values[key], pairs[key])}
            pairs = values | pairs
    pairs = {key: value for key, value in pairs.items() if key not in unclear}
    if pairs:
        claims.groups.append(Group("pairs", section.title, pairs, first))
    claims.groups += epochs
    if len(epochs) == 1:  # one epoch is no curve: its figures are the section's result
        claims.groups.append(replace(epochs[0], kind="pairs"))
    claims.series += [epochs] if len(epochs) > 1 else []


def _contradict(key: Key, first: Quantity, second: Quantity) -> bool:
    """Whether a setting has two values in one place: then it speaks of several things, or of none."""
    return key.name in SETTINGS and abs(first.value - second.value) > first.error + second.error


def _one_epoch(before: Group, group: Group) -> bool:
    """Whether two lines tell of one epoch, as a progress bar and what is printed after it."""
    both = before.values.keys() & group.values.keys()
    return Key("epoch") in both and all(before.values[key] == group.values[key] for key in both)


def _equations(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines; one that begins with `=` goes on with the line above it."""
    waiting: Line | None = None
    for line in lines:
        text = line.text.strip()
        if waiting is not None and text.startswith(("=", "≈")) and len(waiting.text) < LONGEST:
            waiting = Line(waiting.number, f"{waiting.text} {text}")
            continue
        if waiting is not None:
            yield waiting
        waiting = line
    if waiting is not None:
        yield waiting


def _blocks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield each line by itself; the line of an epoch with those beneath it that say more of it."""
    block: list[Line] = []
    for line in lines:
        if block and _is_epoch(block[0].text) and _says_more(block, line.text):
            block.append(line)
            continue
        if block:
            yield block
        block = [line]
    if block:
        yield block


def _is_epoch(text: str) -> bool:
    return _EPOCH.match(plain(text[:LONGEST])) is not None


def _says_more(block: list[Line], text: str) -> bool:
    """Whether a line is indented beneath an epoch's line, or an item of the list that follows its name."""
    head = block[0].text
    if not text.strip():
        return len(block) == 1
    if _is_epoch(text) and not _STATED.fullmatch(text):  # an epoch of its own
        return False
    named = _NAMED.fullmatch(plain(head[:LONGEST])) and not _ITEM.match(head)
    return _indent(text) > _indent(head) or bool(named and _ITEM.match(text))


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _from_line(line: Line, epoch: bool) -> list[dict[Key, Quantity]]:
    """Return the figures of a line, and of the objects of JSON in it: one group while no name comes twice."""
    text = _QUOTE.sub("", plain(line.text[:LONGEST].replace("|", " , ")))
    text = _CAME_FROM.sub("", _WORKED_OUT.sub("", text))
    listed = bool(epoch or _LISTED.match(line.text) or " | " in line.text)
    groups = [_pairs(_OBJECT.sub("{}", text), listed)]
    split = when = ""
    end = 0
    for match in _OBJECT.finditer(text):
        split, when = _told(text[end : match.start()], split, when)
        end = match.end()
        values = _pairs(match[1], False, split, when)
        if split == "test":  # trainers name every evaluation `eval_`, that of the test split too
            values = {k._replace(split="test") if k.split == "val" else k: v for k, v in values.items()}
        if groups[-1].keys() & values.keys():
            groups.append(values)
        else:
            groups[-1] |= values
    return groups


def _pairs(text: str, listed: bool, split: str = "", when: str = "") -> dict[Key, Quantity]:
    """Return `key: number`, `key=number` and, where `listed`, `key number` and `12 layers`."""
    values: dict[Key, Quantity] = {}
    end = 0
    for match in _PAIR.finditer(text):
        split, when = _told(text[end : match.start(1)], split, when)
        key = key_of(match[1], split, when)
        if match[2] in ":=" or listed:
            _put(values, key, _figure(key, text[match.end() :]))
        # what follows is told by the words around a name, not by the name: `max steps` is no maximum
        split, when = (key.split or split, key.when or when) if key else _told(match[1], split, when)
        end = match.end()
    for match in _BEFORE.finditer(text):
        if listed or ":" in text[: match.start()]:
            _put(values, key_of(match[2], *_told(text[: match.start()], "", "")), quantity(match[1]))
    return values


def _told(text: str, split: str, when: str) -> tuple[str, str]:
    return qualified(re.sub(r"[^\w ]+|_", " ", text.lower()).split(), split, when)


def _figure(key: Key | None, text: str) -> Quantity | None:
    """Read the number of a key; a ratio may stand as its two numbers, `242,643 / 869,153`."""
    match = _QUOTIENT.match(text) if key == Key("ratio") else None
    over, under = (quantity(match[1]), quantity(match[2])) if match else (None, None)
    if over is None or under is None or under.value < COUNTS:  # `2.7 / 20` is a ratio and its target
        return quantity(text)
    return Quantity(over.value / under.value, (over.error + under.error) / under.value)
