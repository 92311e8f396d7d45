"""Experiment: the TOML file and the objects behind it; every default shown, no key ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tomli_w

from polyrank import spec
from polyrank.bundle.model import Bundle
from polyrank.data.labels import Orphans
from polyrank.data.read import read
from polyrank.data.sampling import SPLITS, Sampling
from polyrank.data.split import split
from polyrank.errors import ConfigError, did_you_mean
from polyrank.features import FEATURES
from polyrank.metrics.fusion import Fusion
from polyrank.models.model import Model
from polyrank.schema import Feature, Keys, Schema, Task
from polyrank.train.fit import config_tables, train_model
from polyrank.train.progress import Observer, Profile
from polyrank.train.sources import Sources
from polyrank.train.training import Training

SECTIONS = ["name", "seed", "data", "features", "keys", "task", "model", "train", "fusion"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """How `source` is split into train, valid and test.

    Args:
        by: "random" rows, whole "user"s, or "time" (train earliest).
        fractions: of train, valid and test.
        column: of the user or the time; None takes the key.
    """

    by: Literal["random", "time", "user"] = "random"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows are: three paths or globs, or one `source` that is split.

    Args:
        train: learnt from.
        valid: chooses the epoch.
        test: scored once, after training.
        source: all rows, instead of the three.
        split: of `source`.
        orphans: what becomes of a child label without its parent.
        cache: whether the encoded rows are kept beside the run folder.
        sampling: how negatives were down-sampled before the log was written.
    """

    train: str | None = None
    valid: str | None = None
    test: str | None = None
    source: str | None = None
    split: Split | None = None
    orphans: Orphans = "error"
    cache: bool = True
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if (self.train is None) == (self.source is None):
            raise ConfigError("give either train (and valid, test) or source with [data.split]")
        if self.source is not None and (self.valid or self.test):
            raise ConfigError("source is split into train, valid and test: leave these out")
        if self.source is None and self.split is not None:
            raise ConfigError("[data.split] splits source, and there is none")
        if self.source is not None and self.split is None:
            object.__setattr__(self, "split", Split())
        self._check_sampling()

    def _check_sampling(self) -> None:
        """Refuse a sampled source of whose rows some are said to be all there.

        Were it let through, calibration on the other splits would undo what training corrects.
        """
        if self.sampling is None or self.split is None or self.split.by == "time":
            return  # by time, a log may have been sampled up to the day that training ends
        drawn = zip(SPLITS, self.split.fractions, strict=True)
        missing = [name for name, share in drawn if share > 0 and name not in self.sampling.splits]
        if missing:
            raise ConfigError(
                f"sampling: splits leaves out {', '.join(map(repr, missing))}, however: split by "
                f"{self.split.by!r}, all rows of source were sampled alike; write splits = "
                f"[{', '.join(map(repr, SPLITS))}]"
            )

    def absolute(self, folder: Path) -> Data:
        """Return paths that are relative to `folder` as absolute ones."""
        paths = {
            name: str((folder / getattr(self, name)).absolute())
            for name in ("train", "valid", "test", "source")
            if getattr(self, name) is not None
        }
        return replace(self, **paths)

    def sources(self, schema: Schema, seed: int) -> Sources:
        """Return what `learn` reads."""
        if self.source is None or self.split is None:
            return Sources(
                self.train, self.valid, self.test, self.orphans,
                cache=self.cache, sampling=self.sampling,
            )  # fmt: skip
        keys = {"user": schema.keys.user, "time": schema.keys.time}
        by, shares = self.split.by, self.split.fractions
        column = self.split.column or keys.get(by)
        train, valid, test = split(read(self.source, schema), by, shares, column, seed)
        return Sources(
            train,
            valid if shares[1] > 0 else None,
            test if shares[2] > 0 else None,
            self.orphans,
            cache=self.cache,
            origin=(self.source, [by, list(shares), column, seed]),
            sampling=self.sampling,
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: what a TOML file says, as objects.

    Args:
        schema: features, tasks and keys.
        data: where the rows are.
        model: the network's spec.
        training: how it is learnt.
        name: of the run folder.
        seed: of splits, weights, shuffling and dropout.
        fusion: the weights of a fused score, which the scorecard then measures as well.

    Example:
        >>> experiment = Experiment.from_text('''
        ...     [data]
        ...     train = "train.csv"
        ...     [features]
        ...     sparse = ["item"]
        ...     [[task]]
        ...     name = "click"
        ... ''')
        >>> experiment.schema.tasks[0].label
        'click'
        >>> Experiment.from_text(experiment.to_toml()) == experiment
        True
    """

    schema: Schema
    data: Data
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    name: str = "experiment"
    seed: int = 0
    fusion: Fusion | None = None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a TOML file; its paths are relative to its folder.

        Args:
            path: of the file.
            overrides: lines of TOML such as `train.epochs=3`, a bare word being a string.

        Raises:
            ConfigError: no such file, no TOML, or a key or value that is refused.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        return cls.from_text(text, folder=path.parent, overrides=overrides, where=str(path))

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        folder: str | Path = ".",
        overrides: Sequence[str] = (),
        where: str = "configuration",
    ) -> Experiment:
        """Read TOML text; its paths are relative to `folder`."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where} is not TOML: {error}") from None
        for override in overrides:
            _merge(table, _parsed(override))
        return cls.from_table(table, folder=folder)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, folder: str | Path = ".") -> Experiment:
        """Read plain tables.

        Raises:
            ConfigError: an unknown key (with the nearest), a missing one, or a wrong value.
            SchemaError: features, tasks and keys that contradict each other.
        """
        spec.check_keys(table, SECTIONS, "configuration")
        for section in ("data", "features", "task"):
            if section not in table:
                raise ConfigError(f"configuration: [{section}] is missing")
        if not isinstance(table["task"], list):
            raise ConfigError("configuration: a task is written [[task]], with two brackets")
        head = spec.from_table(
            _Head, {key: table[key] for key in ("name", "seed") if key in table}, "configuration"
        )
        schema = Schema(
            features=_features(table["features"]),
            tasks=[spec.from_table(Task, each, "task") for each in table["task"]],
            keys=spec.from_table(Keys, table.get("keys", {}), "keys"),
        )
        return cls(
            schema=schema,
            data=_data(table["data"]).absolute(Path(folder)),
            model=Model.from_table(table.get("model", {})),
            training=Training.from_table(table.get("train", {})),
            name=head.name,
            seed=head.seed,
            fusion=Fusion(table["fusion"]) if "fusion" in table else None,
        )

    def to_table(self) -> dict[str, Any]:
        """Return plain tables, every default shown."""
        return config_tables(
            self.name, self.seed, spec.to_table(self.data), self.schema, self.model, self.training,
            self.fusion,
        )  # fmt: skip

    def to_toml(self) -> str:
        """Return TOML text that `from_text` reads back."""
        return tomli_w.dumps(self.to_table())

    def sources(self) -> Sources:
        """Return what is learnt from, chosen on and scored.

        Raises:
            ConfigError: sampling or a fused score that the tasks and the columns do not allow.
            DataError: files that are not there or cannot be read.
        """
        if self.data.sampling is not None:
            self.data.sampling.check(self.schema)
        sources = self.data.sources(self.schema, self.seed)
        return sources if self.fusion is None else sources.carrying(self.fusion, self.schema)

    def fit(
        self,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        force: bool = False,
        progress: Observer | bool | None = None,
        profile: Profile | None = None,
    ) -> Bundle:
        """Train the model as `polyrank.fit` does; a profile collects where a step's time goes."""
        return train_model(
            self.schema, self.model, self.training, self.sources(), seed=self.seed,
            config=self.to_table(), fusion=self.fusion, out=out, resume=resume, force=force,
            progress=progress, profile=profile,
        )  # fmt: skip


def own_rows(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a run by split, as `read` takes them, from its bundle's configuration.

    Rows that were in memory are left out.
    """
    data = config.get("data", {})
    if "source" in data:
        return Experiment.from_table(config).sources().splits
    return {split: data[split] for split in SPLITS if split in data}


@dataclass(frozen=True, kw_only=True)
class _Head:
    name: str = "experiment"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, however: {self.seed}")
        if not self.name or Path(self.name).name != self.name:
            raise ConfigError(f"name is the name of a folder in runs/, however: {self.name!r}")


def _data(table: Mapping[str, Any]) -> Data:
    if not isinstance(table, Mapping):
        return spec.from_table(Data, table, "data")
    parts = {
        name: spec.from_table(cls, table[name], f"data.{name}")
        for name, cls in {"split": Split, "sampling": Sampling}.items()
        if name in table
    }
    return spec.from_table(Data, {**table, **parts}, "data")


def _features(table: Mapping[str, Any]) -> list[Feature]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"features: expected a table, got {table!r}")
    lists = {kind: table[kind] for kind in FEATURES if kind in table}
    for kind, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"features.{kind}: expected a list of columns, got {names!r}")
    declared = [name for names in lists.values() for name in names]
    for name, value in table.items():
        if name not in lists and name not in declared:
            if isinstance(value, list):
                hint = did_you_mean(name, FEATURES)
                raise ConfigError(f"features.{name}: unknown kind of feature {name!r}{hint}")
            raise ConfigError(
                f"features.{name}: options of a feature that is in none of the lists "
                f"{', '.join(FEATURES)}{did_you_mean(name, declared)}"
            )
    return [
        spec.from_table(FEATURES[kind], {"name": name, **_options(table, name)}, f"features.{name}")
        for kind, names in lists.items()
        for name in names
    ]


def _options(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    options = table.get(name, {})
    if not isinstance(options, Mapping):
        raise ConfigError(f"features.{name}: expected a table of options, got {options!r}")
    return options


def _parsed(override: str) -> dict[str, Any]:
    """Read `key=value` as TOML; a value that is no TOML is a string."""
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set expects KEY=VALUE such as train.epochs=3, however: {override!r}")
    for text in (value, f'"{value}"'):
        try:
            return tomllib.loads(f"{key} = {text}")
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"--set {override!r} is no TOML assignment such as train.epochs=3")


def _merge(table: dict[str, Any], change: Mapping[str, Any], where: str = "") -> None:
    """Put a change into a table; a list of tables is addressed by name, `task.buy.weight=2`."""
    for key, value in change.items():
        name, found = f"{where}{key}", table.get(key)
        if isinstance(found, list) and isinstance(value, Mapping):
            by_name = {each.get("name"): each for each in found if isinstance(each, dict)}
            for each, inner in value.items():
                if each not in by_name:
                    raise ConfigError(
                        f"--set {name}.{each}: unknown name"
                        f"{did_you_mean(each, (str(known) for known in by_name))}"
                    )
                _merge(by_name[each], inner, f"{name}.{each}.")
        elif isinstance(found, dict) and isinstance(value, Mapping):
            _merge(found, value, f"{name}.")
        else:
            table[key] = value
