"""A proposed experiment: its schema, its reasons, and the TOML file that says both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from polyrank.features import names_by_kind
from polyrank.labels import LabelKind
from polyrank.schema import Schema, Task
from polyrank.spec import to_table
from polyrank.text import aligned, html_table


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What `infer` proposes.

    Args:
        schema: features, tasks and keys.
        by: how one log is split: "time" or "random".
        reasons: of each column that is used or left out, why.
        left_out: the columns that are not used, with the kind of feature that each could be.
        rows: that were looked at.
        of: rows that there are.
    """

    schema: Schema
    by: str
    reasons: Mapping[str, str]
    left_out: Mapping[str, str]
    rows: int
    of: int

    def __str__(self) -> str:
        return f"{self._head()}\n\n{aligned(_COLUMNS, self._lines())}\n\n{self.schema.objective}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = html_table(_COLUMNS, self._lines())
        return f"<p>{self._head()}</p>{table}{self.schema.objective._repr_html_()}"

    def _head(self) -> str:
        return f"proposed from {self.rows:,} of {self.of:,} rows; split by {self.by}"

    def _lines(self) -> list[list[str]]:
        """Return what each column is proposed as, and why."""
        uses: dict[str, list[str]] = {}
        for kind, found in names_by_kind(self.schema.features).items():
            for column in found:
                uses.setdefault(column, []).append(kind)
        for key, column in to_table(self.schema.keys).items():
            uses.setdefault(column, []).append(key)
        for task in self.schema.tasks:
            given = f" given {task.given}" if task.given else ""
            uses.setdefault(task.column, []).append(f"{task.kind} task{given}")
        for column in self.left_out:
            uses.setdefault(column, []).append("left out")
        return [[column, ", ".join(use), self.reasons[column]] for column, use in uses.items()]

    def to_toml(self, data: Mapping[str, str], name: str = "experiment") -> str:
        """Return the annotated file of an experiment.

        Args:
            data: `source`, or `train` with `valid` and `test`: a path of each.
            name: of the run folder.
        """
        lines = [
            f"# Proposed from {self.rows:,} of {self.of:,} rows. A line that is commented out is "
            "what else it could be.",
            f"name = {_text(name)}  # of the run folder",
            "",
            "[data]",
        ]
        for split, path in data.items():
            lines.append(f"{split} = {_text(path)}  # by the path that was given")
        if "source" in data:
            other, why = _SPLITS[self.by]
            lines.append(f"split = {{ by = {_text(self.by)} }}  # {why}")
            lines.append(f"# split = {{ by = {_text(other)} }}")
        lines += ["", "[features]", *self._features(), "", *self._keys()]
        for task in self.schema.tasks:
            lines += ["", *self._task(task)]
        return "\n".join(lines) + "\n"

    def _features(self) -> list[str]:
        lines: list[str] = []
        names = names_by_kind(self.schema.features)
        for kind in dict.fromkeys([*names, *self.left_out.values()]):
            lines.append(f"{kind} = [  # {_KINDS[kind]}")
            lines += [f"    {_text(each)},  # {self.reasons[each]}" for each in names.get(kind, [])]
            lines += [
                f"    # {_text(each)},  # left out: {self.reasons[each]}"
                for each, could_be in self.left_out.items()
                if could_be == kind
            ]
            lines.append("]")
        return lines

    def _keys(self) -> list[str]:
        found = to_table(self.schema.keys)
        lines = ["[keys]" if found else "# [keys]"]
        lines += [f"{key} = {_text(each)}  # {self.reasons[each]}" for key, each in found.items()]
        return lines + [
            f'# {key} = "COLUMN"  # no column looks like one; {needed}'
            for key, needed in _NEEDED.items()
            if key not in found
        ]

    def _task(self, task: Task) -> list[str]:
        column = task.column
        lines = ["[[task]]", f"name = {_text(task.name)}  # {self.reasons[column]}"]
        if column != task.name:
            lines.append(f"label = {_text(column)}  # the column; a name must be an identifier")
        if task.kind != "binary":
            lines.append(f"kind = {_kind(task.label_kind)}  # {task.label_kind.allowed}")
            lines.append('# kind = "regression"')
        if task.given:
            lines.append(f"given = {_text(task.given)}  # {self.reasons[f'{column} given']}")
        elif f"{column} nearly given" in self.reasons:
            lines.append(f"# {self.reasons[f'{column} nearly given']}")
        return lines


_COLUMNS = ("column", "proposed as", "why")
_SPLITS = {
    "time": ("random", "trained on the past, scored on what follows, as a model in use is"),
    "random": ("user", "no time orders the rows so that each part has both labels"),
}
_NEEDED = {
    "user": "gauc, and intervals that allow for a user's rows being alike, need it",
    "request": "ndcg, and losses that compare the rows of a request, need it",
    "time": "a split by time, and what depends on when a row was logged, need it",
}
_KINDS = {
    "sparse": "ids, each with an embedding",
    "dense": "numbers",
    "sequence": "lists of ids",
    "vector": "lists of numbers of one length",
}


def _kind(kind: LabelKind) -> str:
    """Return a kind as TOML in one line, with the options that are not its defaults."""
    chosen = {
        each.name: getattr(kind, each.name)
        for each in fields(kind)
        if getattr(kind, each.name) != each.default
    }
    if not chosen:
        return _text(kind.name)
    options = {"kind": kind.name, **chosen}
    return "{ " + ", ".join(f"{name} = {_text(each)}" for name, each in options.items()) + " }"


def _text(value: str | float | Sequence[Any]) -> str:
    """Return a TOML value: JSON's escapes are TOML's, and DEL is one more."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def names(columns: Sequence[str]) -> str:
    """Return some names as a message shows them."""
    shown = ", ".join(map(repr, columns[:20]))
    return shown + (f", … {len(columns) - 20} more" if len(columns) > 20 else "")
