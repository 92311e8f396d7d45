"""Settings as plain data: what a run changes in Model, Training and Schema.

A table holds only what differs; the rest is whatever the library's defaults are on that day, and a
key that it does not know is refused with the nearest one. So a new option is tried by naming it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polyrank as pr
from polyrank.errors import ConfigError, did_you_mean
from polyrank.schema import Schema, Task
from polyrank.train.training import Training

PARTS = ("model", "training", "schema")
PARENT = "parent"


@dataclass(frozen=True)
class Setting:
    """Changes to the defaults, each as the tables of a TOML file.

    Args:
        model: of `[model]`.
        training: of `[train]`.
        schema: by the kind of feature, `{"dense": {"encoding": "bins"}}`, for all features of the
            kind; and `{"task": {…}}` for all conditional events, where the space "parent" is each
            one's own `given`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def but(self, other: Setting) -> Setting:
        """Return these changes and, above them, the other's."""
        schema = {
            kind: {**self.schema.get(kind, {}), **other.schema.get(kind, {})}
            for kind in (*self.schema, *other.schema)
        }
        return Setting({**self.model, **other.model}, {**self.training, **other.training}, schema)

    @property
    def schema_key(self) -> str:
        """The changes to the schema as text."""
        return json.dumps(self.schema, sort_keys=True)

    @classmethod
    def from_key(cls, key: str) -> Setting:
        """Return the changes that `schema_key` wrote."""
        return cls(schema=json.loads(key))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Setting:
        """Read `{"model": …, "training": …, "schema": …}`, each of which may be left out."""
        if unknown := [key for key in table if key not in PARTS]:
            raise ConfigError(f"{where}: unknown part {unknown[0]!r}; there are {PARTS}")
        return cls(**table)

    def built(self) -> tuple[pr.Model, Training]:
        """Return the specs."""
        trunk = pr.Model().to_table()["trunk"]
        model = pr.Model.from_table({"trunk": trunk, **self.model})
        return model, Training.from_table(self.training)

    def resolved(self) -> dict[str, Any]:
        """Return every value in force, as JSON gives it back: what decides a run's figures."""
        model, training = self.built()
        tables = {"model": model.to_table(), "training": training.to_table(), "schema": self.schema}
        return json.loads(json.dumps(tables))


def _known(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in options if name in {each.name for each in fields(cls)}}


AS_IT_IS = Setting()
# What polyrank's defaults were before wide rows, and "off" for each option that came later.
FORMER = Setting(
    model={
        "trunk": {"kind": "mmoe", "experts": 8, "hidden": [16]}, "tower": [16, 8],
        "embed_dim": 16, "norm": "none", "dropout": 0.1,
        **_known(pr.Model, {"wide": False, "trees": False, "interaction": False, "auto": False,
                            "field_dropout": 0.0}),
    },
    training={
        "epochs": 5, "batch_size": 1024, "lr": 3e-3, "unseen_rate": 0.001,
        "embeddings": {"kind": "lazy_adam", "lr": 3e-3, "l2": 0.0,
                       **_known(pr.LazyAdam, {"prior": 0.0, "decay": 0.0})},
        "dense": {"kind": "adam", "lr": 3e-3, "weight_decay": 0.0},
        "balance": {"kind": "sum", "normalize": True}, "schedule": {"kind": "constant"},
        **_known(Training, {"members": 1}),
    },
    schema={
        "dense": {"encoding": "bins", "bins": 32},
        "task": {"space": "all", **_known(Task, {"hold_ancestors": False})},
    },
)  # fmt: skip


def changed(schema: Schema, setting: Setting) -> Schema:
    """Return a schema with a setting's changes; a kind of feature that it lacks changes nothing."""
    tables = schema.to_table()
    changes = dict(setting.schema)
    of_task = changes.pop("task", {})
    for feature in tables["features"]:
        feature |= changes.get(feature["kind"], {})
    events = {task.name for task in schema.tasks if task.given and task.label_kind.is_event}
    for task in tables["tasks"]:
        if task["name"] in events:
            task |= of_task
            if task.get("space") == PARENT:
                task["space"] = task["given"]
    return Schema.from_table(tables)


def read_settings(path: Path, only: Sequence[str] | None = None) -> dict[str, Setting]:
    """Return the named settings of a TOML file, in its order.

    A table is a name, with the tables `model`, `training` and `schema`; `over` names the setting
    whose changes come first: one above it in the file, or "former".

    Raises:
        ConfigError: an unknown name, or a table of another shape.
    """
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Setting] = {}
    for name, table in tables.items():
        over = table.pop("over", None)
        base = {**found, "former": FORMER, None: AS_IT_IS}
        if over not in base:
            raise ConfigError(f"{name}: over names {over!r}; above it there are {[*found]}")
        found[name] = base[over].but(Setting.from_table(table, name))
    if only is None:
        return found
    if unknown := [name for name in only if name not in found]:
        raise ConfigError(f"{path}: there is no {unknown[0]!r}{did_you_mean(unknown[0], found)}")
    return {name: found[name] for name in only}
