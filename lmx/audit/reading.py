"""A report as it was read: what each of its sections says, and which settings hold there."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lmx.audit.claims import BASELINE, Claims, Group, claims_of, completed
from lmx.audit.markdown import Section, Table, parse
from lmx.audit.names import MEASURES, SETTINGS, Key, Quantity
from lmx.config.errors import DataError, nearest

LARGEST = 20 * 2**20  # bytes: a report is read by people
COMPANIONS = ("research_data.json", "performance_metrics.csv")  # figures that reports lay beside themselves
RESULTS = re.compile(
    r"\W*(results?|config\w*|metrics|setup|training|validation|test|evaluation|model|data|"
    r"observations?|analysis|conclusions?|summary|comparison|overview|discussion|verdict|next steps|"
    r"loss curves?|ranking)\W*",
    re.IGNORECASE,
)  # headings that name a part of an experiment, or speak of several
_DATE = re.compile(r"^\W*\d{4}-\d\d-\d\d\W+")
TOGETHER = re.compile(
    r"summary|comparison|overview|conclusion|discussion|ranking|verdict|analysis|progression", re.I
)


@dataclass
class Reading:
    """The text, its sections and what they claim."""

    text: str
    root: Section
    claims: list[Claims]
    _scopes: dict[int, dict[str, Quantity]] = field(default_factory=dict, repr=False)
    _names: dict[int, str | None] = field(default_factory=dict, repr=False)

    @cached_property
    def parents(self) -> dict[int, Section]:
        """Return the section above each, by identity."""
        return {id(child): section for section in self.root.walk() for child in section.children}

    @cached_property
    def _of_section(self) -> dict[int, Claims]:
        return {id(claims.section): claims for claims in self.claims}

    def groups(self) -> Iterator[tuple[Claims, Group]]:
        """Yield every group with its section."""
        for claims in self.claims:
            for group in claims.groups:
                yield claims, group

    def series(self) -> Iterator[tuple[Claims, list[Group]]]:
        """Yield every table of figures, run of epoch lines and set of arms with its section."""
        for claims in self.claims:
            for series in claims.series:
                yield claims, series
            if arms := self._arms(claims.section):
                yield claims, arms

    @cached_property
    def _baselines(self) -> dict[int, Section]:
        """The part of each section that is titled as a baseline, by identity."""
        return {
            id(section): child
            for section in self.root.walk()
            for child in reversed(section.children)
            if BASELINE.search(child.title)
        }

    def _arms(self, section: Section) -> list[Group]:
        """Return the settings of a baseline's section and of those beside it, as rows of a table."""
        baseline = self._baselines.get(id(section))
        if baseline is None:
            return []
        given = self._unambiguous(baseline).keys()
        arms = []
        for child in section.children:
            own = self._unambiguous(child).keys()
            if own & given and not TOGETHER.search(child.title) and not RESULTS.fullmatch(child.title):
                settings = self._settings(child).items()
                values = {Key(name): value for name, value in settings if name not in ("epoch", "step")}
                arms.append(Group("pairs", child.title, values, child.number))
        return arms if len(arms) > 1 else []

    def scope(self, section: Section) -> dict[str, Quantity]:
        """Return the settings that hold in a section: its own, or of the nearest heading with one value."""
        found: dict[str, Quantity] = {}
        node: Section | None = section
        while node is not None:
            for name, value in self._settings(node).items():
                found.setdefault(name, value)
            node = self.parents.get(id(node))
        return found

    def _settings(self, section: Section) -> dict[str, Quantity]:
        """Return the settings with one value in a section; of an arm, those of its baseline as well."""
        own = self._unambiguous(section)
        baseline = self._baselines.get(id(self.parents.get(id(section))))
        return own if baseline is None else completed(own, self._unambiguous(baseline))

    def _unambiguous(self, section: Section) -> dict[str, Quantity]:
        if id(section) not in self._scopes:
            values: dict[str, dict[float, Quantity]] = {}
            for inner in section.walk():
                for group in self._of_section[id(inner)].groups:
                    for name, value in group.settings.items() if group.kind in ("pairs", "json") else ():
                        values.setdefault(name, {})[value.value] = value
            single = {name: next(iter(found.values())) for name, found in values.items() if len(found) == 1}
            self._scopes[id(section)] = single
        return self._scopes[id(section)]

    def settings(self, claims: Claims, group: Group) -> dict[str, Quantity]:
        """Return the settings that hold for one group: its own before those of its section."""
        return self.scope(claims.section) | group.settings

    def experiment(self, section: Section) -> str | None:
        """Return the heading of the experiment a section belongs to; None where it speaks of several."""
        if id(section) not in self._names:
            self._names[id(section)] = self._experiment(section)
        return self._names[id(section)]

    def _experiment(self, section: Section) -> str | None:
        node: Section | None = section
        while node is not None and node.level:
            if TOGETHER.search(node.title):
                return None
            if not RESULTS.fullmatch(node.title):
                return _DATE.sub("", node.title)
            node = self.parents.get(id(node))
        return None

    @cached_property
    def compared(self) -> list[str]:
        """Names of the experiments that stand side by side: rows of a table, or sections of their own."""
        names: dict[str, None] = {}
        for _, series in self.series():
            rows = [group for group in series if is_result(group) and not is_point(group)]
            names |= dict.fromkeys(group.title for group in rows) if len(rows) > 1 else {}
        for claims, group in self.groups():
            name = self.experiment(claims.section)
            if name and is_result(group) and group.kind == "pairs":
                names.setdefault(name)
        return list(names)

    @cached_property
    def lower(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    @cached_property
    def named_vocabulary(self) -> float | None:
        """The vocabulary of the tokenizer that the text names, where it gives no size."""
        return 50257.0 if "gpt-2 tokenizer" in self.lower else None

    @cached_property
    def curves(self) -> list[Claims]:
        """Sections with a curve over epochs or steps, one entry a curve."""
        return [
            claims for claims, series in self.series() if any(is_point(g) and is_result(g) for g in series)
        ]

    @cached_property
    def bests(self) -> list[tuple[Claims, Group]]:
        """Groups with a figure that is called best, with their sections."""
        return [(c, group) for c, group in self.groups() if any(key.when == "best" for key in group.values)]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How much was read: tables, settings, figures."""
        settings = {key.name for _, group in self.groups() for key in group.values if key.name in SETTINGS}
        figures = sum(key.name in MEASURES for _, g in self.groups() if g.kind != "pairs" for key in g.values)
        return {
            "tables": sum(len(section.tables) for section in self.root.walk()),
            "settings": len(settings),
            "figures": figures,
        }


def is_point(group: Group) -> bool:
    """Whether a group is a point of a curve: it has an epoch or a step."""
    return Key("epoch") in group.values or Key("step") in group.values


def is_result(group: Group) -> bool:
    """Whether a group has a loss or a perplexity."""
    return any(key.name in ("loss", "ppl") for key in group.values)


def read_report(path: Path) -> Reading:
    """Read a Markdown file, and the data files that its text names and that lie beside it.

    Raises DataError for a file that is not there, is a folder, or is larger than any report.
    """
    if not path.is_file():
        folder = path.parent
        names = [item.name for item in folder.iterdir() if item.suffix == ".md"] if folder.is_dir() else []
        what = "a folder, not a report" if path.is_dir() else "no such report"
        raise DataError(f"{path}: {what}{nearest(path.name, names)}")
    text = _text(path)
    root = parse(text)
    for name in COMPANIONS:
        beside = path.parent / name
        if name in text and beside.is_file():
            root.children.append(_companion(beside))
    return Reading(text, root, claims_of(root))


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path}: got {path.stat().st_size:,} bytes, allowed: at most {LARGEST:,}")
    return path.read_bytes().decode("utf-8-sig", errors="replace")


def _companion(path: Path) -> Section:
    text = _text(path)
    if path.suffix == ".json":
        section = parse(f"```json\n{text}\n```")
        section.title, section.level = path.name, 1
        return section
    section = Section(path.name, 1, 1)
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(rows) > 1:
        body = [(row + [""] * len(rows[0]))[: len(rows[0])] for row in rows[1:]]
        section.tables.append(Table(rows[0], body, 1))
    return section
