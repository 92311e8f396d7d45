"""Experiment: the TOML file and the objects behind it; every default shown, no key ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from polyrank import spec
from polyrank.bundle.model import Bundle
from polyrank.data.check import Audit, check
from polyrank.data.labels import Orphans
from polyrank.data.memory import AUTO, bytes_of, resolved
from polyrank.data.read import Joined, is_log, read
from polyrank.data.sampling import SPLITS, Sampling
from polyrank.data.split import By, split
from polyrank.errors import ConfigError, did_you_mean
from polyrank.features import FEATURES
from polyrank.metrics.fusion import Fusion
from polyrank.metrics.registry import direction
from polyrank.metrics.scorecard import Scorecard
from polyrank.models.model import Model
from polyrank.monitor.bounds import Bounds
from polyrank.paths import absolute
from polyrank.ranks import launched
from polyrank.schema import Feature, Keys, Schema, Task
from polyrank.terms import populations
from polyrank.train.fit import config_tables, train_model
from polyrank.train.progress import Observer, Profile
from polyrank.train.replay import (
    Periods,
    Replay,
    replay,
    settings_of,
    strategies,
    strategies_named,
)
from polyrank.train.seeds import (
    SeedRuns,
    check_rows,
    finished,
    rescored,
    run_of,
    scorecard_of,
    seeds_folder,
)
from polyrank.train.sources import Sources
from polyrank.train.start import Start
from polyrank.train.track import Tracker, tracker_of
from polyrank.train.training import Training
from polyrank.tune.search import Candidate, Objective, Told, Work, search
from polyrank.tune.space import merged, searched
from polyrank.tune.spec import Tune
from polyrank.tune.tuned import Tuned

SECTIONS = [
    "name",
    "seed",
    "data",
    "features",
    "keys",
    "task",
    "model",
    "train",
    "fusion",
    "start",
    "monitor",
    "tune",
    "track",
]


@dataclass(frozen=True, kw_only=True)
class Split:
    """How `source` is split into train, valid and test."""

    by: By = "random"  # rows, whole "user"s, or "time" (train earliest)
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)  # of train, valid and test
    column: str | None = None  # of the user or the time; None takes the key
    seed: int | None = None  # of the rows or users drawn; None takes the experiment's

    def __post_init__(self) -> None:
        if self.seed is not None:
            object.__setattr__(self, "seed", spec.whole("seed", self.seed, least=0))


@dataclass(frozen=True, kw_only=True)
class SharedLists:
    """A file of lists that rows share; see `polyrank.Joined`."""

    file: str
    key: str  # the column by which a row names its lists, in both files


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows are: three paths or globs, or one `source` that is split."""

    train: str | None = None  # learned from
    valid: str | None = None  # chooses the epoch
    test: str | None = None  # scored once, after training
    source: str | None = None  # all rows, instead of the three
    split: Split | None = None  # of `source`
    orphans: Orphans = "error"  # what becomes of a child label without its parent
    cache: bool = True  # whether the encoded rows are kept beside the run folder
    memory: str | int = AUTO  # that encoded rows may take, such as "2GiB"
    shared: SharedLists | None = None  # lists that rows of all splits name by a key
    sampling: Sampling | None = None  # how negatives were down-sampled before the log was written

    def __post_init__(self) -> None:
        if (self.train is None) == (self.source is None):
            raise ConfigError("give either train (and valid, test) or source with [data.split]")
        if self.source is not None and (self.valid or self.test):
            raise ConfigError("source is split into train, valid and test: leave these out")
        if self.source is None and self.split is not None:
            raise ConfigError("[data.split] needs source, the rows that it splits")
        if self.source is not None and self.split is None:
            object.__setattr__(self, "split", Split())
        bytes_of(self.memory)
        self._check_sampling()

    def _check_sampling(self) -> None:
        """Refuse a sampled source of whose splits some are declared as whole.

        Calibration on those would undo what training corrects.
        """
        if self.sampling is None or self.split is None or self.split.by == "time":
            return  # by time, a log may have been sampled up to the day that training ends
        drawn = zip(SPLITS, self.split.fractions, strict=True)
        missing = [name for name, share in drawn if share > 0 and name not in self.sampling.splits]
        if missing:
            raise ConfigError(
                f"sampling: splits leaves out {', '.join(map(repr, missing))}, but a source split "
                f"by {self.split.by!r} was sampled as a whole; write splits = {list(SPLITS)}"
            )

    def absolute(self, folder: Path) -> Data:
        """Return the same with absolute paths; relative ones are in `folder`."""
        paths = {
            name: absolute(path, folder)
            for name in (*SPLITS, "source")
            if (path := getattr(self, name)) is not None
        }
        shared = self.shared
        if shared is not None:
            shared = replace(shared, file=absolute(shared.file, folder))
        return replace(self, **paths, shared=shared)

    def sources(self, schema: Schema, seed: int) -> Sources:
        """Return what `learn` reads."""
        rules: Any = {
            name: getattr(self, name) for name in ("orphans", "cache", "sampling", "memory")
        }
        if self.source is None or self.split is None:
            given = (self._joined(each) for each in (self.train, self.valid, self.test))
            return Sources(*given, **rules)
        by, shares = self.split.by, self.split.fractions
        column = self.split.column or {"user": schema.keys.user, "time": schema.keys.time}.get(by)
        seed = seed if self.split.seed is None else self.split.seed
        parts = zip(split(read(self.source, schema), by, shares, column, seed), shares, strict=True)
        train, valid, test = (self._joined(rows) if share > 0 else None for rows, share in parts)
        origin = (self.source, [by, list(shares), column, seed])
        return Sources(train, valid, test, origin=origin, **rules)

    def _joined(self, rows: Any) -> Any:
        if rows is None or self.shared is None:
            return rows
        return Joined(rows, self.shared.file, self.shared.key)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: what a TOML file says, as objects.

    Args:
        schema: features, tasks and keys; the model names the spaces that tasks leave out.
        data: where the rows are.
        model: the network's spec.
        training: how it is learned.
        name: of the run folder.
        seed: of splits, weights, shuffling and dropout.
        fusion: the weights of a fused score, which the scorecard then measures as well.
        start: the run that training goes on from.
        monitor: the bounds of `polyrank monitor`.
        tuning: how `polyrank tune` searches.
        track: where runs are shown as well.

    Examples:
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
    start: Start | None = None
    monitor: Bounds | None = None
    tuning: Tune | None = None
    track: Tracker | None = None

    def __post_init__(self) -> None:
        name = self.name
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise ConfigError(f"name must be one folder name (runs/NAME), got {name!r}")
        object.__setattr__(self, "seed", spec.whole("seed", self.seed, least=0))
        object.__setattr__(self, "schema", self.model.supervised(self.schema))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a TOML file; its paths are relative to its folder.

        Overrides are lines of TOML such as `train.epochs=3`, a bare word being a string. A change
        of a kind, `model.trunk.kind=ple`, starts from that kind's defaults.

        Raises:
            ConfigError: no such file, no TOML, or a key or value that is refused.
        """
        path = Path(path)
        if is_log(path):
            raise ConfigError(
                f"{path} is a log, and an experiment is a TOML file: `polyrank init {path}` "
                "proposes one"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path} cannot be read: {reason}") from None
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
        changes: dict[str, Any] = {}
        for override in overrides:
            _merge(changes, _parsed(override))
        _check_known(changes, table)
        _merge(table, changes)
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
            raise ConfigError("configuration: write a task as [[task]], with two brackets")
        schema = Schema(
            features=_features(table["features"]),
            tasks=[Task.from_table(each) for each in table["task"]],
            keys=spec.from_table(Keys, table.get("keys", {}), "keys"),
        )
        return cls(
            schema=schema,
            data=spec.from_table(Data, table["data"], "data").absolute(Path(folder)),
            model=Model.from_table(table.get("model", {})),
            training=Training.from_table(table.get("train", {})),
            fusion=Fusion(table["fusion"]) if "fusion" in table else None,
            start=Start.from_table(table["start"], Path(folder)) if "start" in table else None,
            monitor=spec.from_table(Bounds, table["monitor"], "monitor")
            if "monitor" in table
            else None,
            tuning=Tune.from_table(table["tune"]) if "tune" in table else None,
            track=tracker_of(table["track"]) if "track" in table else None,
            **{key: table[key] for key in ("name", "seed") if key in table},
        )

    def to_table(self) -> dict[str, Any]:
        """Return plain tables, every default shown."""
        tables = config_tables(
            self.name, self.seed, spec.to_table(self.data), self.schema, self.model, self.training,
            self.fusion, self.start, self.track,
        )  # fmt: skip
        if self.monitor is not None:
            tables["monitor"] = spec.to_table(self.monitor)
        return tables if self.tuning is None else {**tables, "tune": self.tuning.to_table()}

    def to_toml(self) -> str:
        """Return TOML text that `from_text` reads back."""
        return tomli_w.dumps(self.to_table())

    def sources(self, *, test: bool = True) -> Sources:
        """Return what is learned from, chosen on and, unless test rows are left out, scored.

        Raises:
            ConfigError: sampling or a fused score that the tasks and the columns do not allow.
            DataError: files that do not exist or cannot be read.
        """
        if self.data.sampling is not None:
            self.data.sampling.check(self.schema)
        sources = self.data.sources(self.schema, self.seed)
        sources = sources if test else replace(sources, test=None)
        return sources if self.fusion is None else sources.carrying(self.fusion, self.schema)

    def audit(self) -> Audit:
        """Return what the log shows before it is trained on; see docs/audit.md."""
        sources = self.sources()
        return check(
            self.schema,
            {
                split: rows if isinstance(rows, Joined) else read(rows, self.schema)
                for split, rows in sources.splits.items()
            },
            orphans=sources.orphans,
            normalized=self.training.balance.normalizes,
            memory=resolved(sources.memory),
        )

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
            config=self.to_table(), fusion=self.fusion, begun=self.start, out=out,
            resume=resume, force=force, progress=progress, profile=profile, track=self.track,
        )  # fmt: skip

    def replay(
        self,
        by: str,
        *,
        first: Any = None,
        last: Any = None,
        every: str | None = None,
        names: Sequence[str] = (),
        window: int | None = None,
        retain: float = 0.9,
        valid: float = 0.1,
        score: str | None = None,
        metric: str | None = None,
        out: str | Path,
        resume: bool = False,
        force: bool = False,
        progress: Observer | bool | None = None,
    ) -> Replay:
        """Score each period of the log by the model of the period before, then learn it.

        The rows are those of `data.source`, or of `data.train`; see docs/warm_start.md.

        Args:
            by: a column whose values are periods, or times where `every` is given.
            first: period that is scored; by default the second one.
            last: period that is scored and learned; by default the last one.
            every: the length of a period, such as "1d", or a number of the column's unit.
            names: of strategies, among scratch, warm and forget; all by default.
            window: periods that scratch learns; all so far by default.
            retain: share of what earlier periods told that still counts, of forget.
            valid: share of each run's rows that choose its epoch and calibrate.
            score: that is shown; by default the first task's.
            metric: that is shown; by default its kind's.
            out: the folder of the runs.
            resume: go on with the replay in `out`.
            force: replace it.
            progress: as in `polyrank.fit`.

        Raises:
            ConfigError: options that contradict the log or the folder.
            DataError: rows that cannot be cut, or learned.
        """
        if self.data.shared is not None:
            raise ConfigError("a replay takes no [data.shared]: join the lists first")
        chosen = strategies_named(names, strategies(window, retain))
        kinds = {each.name: each for each in populations(self.schema)}
        score = next(iter(kinds)) if score is None else score
        if score not in kinds:
            raise ConfigError(f"unknown score {score!r}{did_you_mean(score, kinds)}")
        metric = kinds[score].label_kind.default_metric if metric is None else metric
        direction(kinds[score].kind, metric)  # refuses an unknown one
        source = self.data.source or self.data.train
        periods = Periods.of(read(source, self.schema), by, every=every, first=first, last=last)
        config = self.to_table()
        rules: Any = {name: getattr(self.data, name) for name in ("orphans", "sampling", "memory")}

        def fit(train: Any, held: Any, start: Start | None, folder: Path, again: bool) -> Bundle:
            sources = Sources(train, held, **rules)
            if self.fusion is not None:
                sources = sources.carrying(self.fusion, self.schema)
            own = config if start is None else {**config, "start": start.to_table()}
            return train_model(
                self.schema, self.model, self.training, sources, seed=self.seed, config=own,
                fusion=self.fusion, begun=start, out=folder, resume=again, progress=progress,
                title=f"{self.name} ({folder.parent.name} {folder.name})",
            )  # fmt: skip

        settings = settings_of(
            config, chosen, by=by, first=periods.chosen[0], last=periods.chosen[-1], every=every,
            valid=valid,
        )  # fmt: skip
        return replay(
            periods, chosen, fit, out=Path(out), settings=settings, valid=valid, seed=self.seed,
            begun=self.start, score=score, metric=metric, resume=resume, force=force,
        )  # fmt: skip

    def fit_seeds(
        self,
        count: int,
        *,
        out: str | Path,
        resume: bool = False,
        force: bool = False,
        progress: Observer | bool | None = None,
        test: bool = True,
        beside: str | Path | None = None,
    ) -> SeedRuns:
        """Train the seeds `seed`, `seed` + 1, …, each into a run folder OUT/seed-N, on equal rows.

        A source is split once, by the first seed, and its rows are encoded once. OUT/seeds.json
        sums up what is finished.

        Args:
            count: how many seeds.
            out: the folder of the run folders.
            resume: continue the runs in `out`: a finished one is kept as it is, an interrupted one
                goes on to the same bits, and with a higher count more are trained.
            force: replace the runs in `out`.
            progress: as in `polyrank.fit`.
            test: whether test rows are read and scored; otherwise validation rows are scored.
            beside: the folder of the cache of encoded rows; by default that of `out`.

        Raises:
            ConfigError: a count below 1, or a folder that holds something else.
            TrainingError: rows that changed between two runs, or what stops a single run.

        Examples:
            >>> import polars as pl
            >>> from tempfile import TemporaryDirectory
            >>> log = {"item": [1, 2] * 40, "click": [1, 0, 1, 1] * 20}
            >>> with TemporaryDirectory() as folder:
            ...     pl.DataFrame(log).write_csv(f"{folder}/log.csv")
            ...     table = {
            ...         "data": {"train": "log.csv", "valid": "log.csv"},
            ...         "features": {"sparse": ["item"]},
            ...         "task": [{"name": "click"}],
            ...     }
            ...     experiment = Experiment.from_table(table, folder=folder)
            ...     found = experiment.fit_seeds(2, out=f"{folder}/runs")
            >>> [path.name for path in found.runs.values()]
            ['seed-0', 'seed-1']
            >>> round(found.scores.value("click @ all", "auc").mean, 4)
            0.8333
        """
        count = spec.whole("seeds", count)
        folder, seeds = Path(out), range(self.seed, self.seed + count)
        cards: dict[int, Scorecard | None] = {}
        with seeds_folder(folder, seeds, resume=resume, force=force):
            for seed in seeds:
                one, run = self._of_seed(seed), run_of(folder, seed)
                config = one.to_table()
                if finished(run, config):
                    cards[seed] = scorecard_of(run)
                else:
                    cards[seed] = train_model(
                        one.schema, one.model, one.training, one.sources(test=test), seed=seed,
                        config=config, fusion=one.fusion, begun=one.start, out=run, resume=resume,
                        progress=progress, title=f"{self.name} (seed {seed})",
                        beside=folder.parent if beside is None else Path(beside), track=one.track,
                    ).scorecard  # fmt: skip
                found = SeedRuns(folder, dict(cards))
                check_rows(list(found.runs.values()))
                found.write()
        return SeedRuns(folder, cards)

    def changed(self, changes: Mapping[str, Any]) -> Experiment:
        """Return the same experiment with other values of its file, {key: value}.

        Examples:
            >>> table = {"data": {"train": "t.csv"}, "features": {"sparse": ["item"]}}
            >>> experiment = Experiment.from_table(table | {"task": [{"name": "click"}]})
            >>> experiment.changed({"train.lr": 0.01}).training.dense.lr
            0.01
        """
        tables = {**self.to_table(), "train": self.training.own_table()}
        return Experiment.from_table(merged(tables, changes))

    def tune(
        self,
        *,
        out: str | Path,
        resume: bool = False,
        force: bool = False,
        progress: Observer | bool | None = None,
        told: Told | None = None,
    ) -> Tuned:
        """Search settings on validation rows, and score what wins once on test rows.

        The file as it is, and the best trials, are trained again with several seeds; the best mean
        wins. See docs/tune.md. Needs the extra `[tune]`.

        Args:
            out: the folder of the search.
            resume: go on with the search in `out`, or join the processes that are at work on it.
            force: replace it.
            progress: of the runs of finalists, as in `polyrank.fit`.
            told: called with each finished trial of this process.

        Raises:
            ConfigError: a space or an objective that this experiment does not have, or a folder
                that holds something else.
            PolyrankError: Optuna is not installed.
        """
        tune = self.tuning or Tune()
        if launched():
            raise ConfigError(
                "tune shares a search among processes of its own: start each without a launcher, "
                "with --resume"
            )
        if self.start is not None:
            raise ConfigError("tune trains from scratch: leave [start] out")
        as_given = replace(self, tuning=None)
        objective = Objective.of(tune, self.training, self.schema)
        space = searched(tune, self.schema, lambda each: as_given.changed(each).to_table())
        out = Path(out)

        def of(changes: Mapping[str, Any]) -> Experiment:
            found = as_given.changed(changes)
            return replace(found, training=objective.watched(found.training))

        def candidate(changes: Mapping[str, Any]) -> Candidate:
            one = of(changes)
            sources = replace(one, fusion=None).sources(test=False)
            return Candidate(one.schema, one.model, one.training, sources, one.seed)

        def fit(changes: Mapping[str, Any], folder: Path) -> SeedRuns:
            return of(changes).fit_seeds(
                tune.seeds, out=folder, resume=folder.exists(), progress=progress, test=False,
                beside=out.parent,
            )  # fmt: skip

        tested = self.data.test is not None or (
            self.data.split is not None and self.data.split.fractions[2] > 0
        )

        def score(runs: SeedRuns) -> SeedRuns:
            return rescored(runs, self.sources().splits["test"], "test")

        work = Work(
            candidate, lambda changes: of(changes).to_toml(), fit, score if tested else None
        )
        shown = replace(tune, space={each.key: each.where for each in space})
        return search(
            tune, space, objective, work, out=out, seed=self.seed,
            config=replace(self, tuning=shown).to_table(), resume=resume, force=force, told=told,
        )  # fmt: skip

    def _of_seed(self, seed: int) -> Experiment:
        """The same experiment with another seed, on the rows that it has with its own."""
        split = self.data.split
        if split is None or split.by == "time" or split.seed is not None:
            return replace(self, seed=seed)
        data = replace(self.data, split=replace(split, seed=self.seed))
        return replace(self, seed=seed, data=data)


def own_rows(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a run by split, as `read` takes them, from its bundle's configuration.

    Rows that were in memory are left out.
    """
    data = config.get("data", {})
    if "source" in data:
        return Experiment.from_table(config).sources().splits
    return {split: data[split] for split in SPLITS if split in data}


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
                raise ConfigError(
                    f"features.{name}: unknown kind of feature {name!r}{hint}; if a plugin adds "
                    "it, install that plugin"
                )
            raise ConfigError(
                f"features.{name}: options of a feature that is in none of the lists "
                f"{', '.join(FEATURES)}{did_you_mean(name, declared)}"
            )
    features = []
    for kind, name in [(kind, name) for kind, names in lists.items() for name in names]:
        options, where = table.get(name, {}), f"features.{name}"
        if not isinstance(options, Mapping):
            raise ConfigError(f"{where}: expected a table of options, got {options!r}")
        features.append(spec.from_table(FEATURES[kind], {"name": name, **options}, where))
    return features


def _parsed(override: str) -> dict[str, Any]:
    """Read `key=value` as TOML; a value that is no TOML is a string."""
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"--set needs KEY=VALUE such as train.epochs=3, got {override!r}")
    for text in (value, f'"{value}"'):
        try:
            return tomllib.loads(f"{key} = {text}")
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"--set {override!r} is no TOML assignment such as train.epochs=3")


def _check_known(changes: Mapping[str, Any], table: Mapping[str, Any]) -> None:
    """Refuse a key that no experiment has; the hint looks for it in every section."""
    tables = {
        "data": Data, "keys": Keys, "model": Model, "train": Training, "start": Start,
        "monitor": Bounds, "tune": Tune,
    }  # fmt: skip
    own = {name: [f"{name}.{each.name}" for each in fields(cls)] for name, cls in tables.items()}
    known = [*SECTIONS, *(key for keys in own.values() for key in keys), *_dotted(table)]
    for section, inner in changes.items():
        if section not in SECTIONS:
            raise ConfigError(f"--set {section}: unknown key{did_you_mean(section, known)}")
        for key in inner if section in own and isinstance(inner, Mapping) else ():
            name = f"{section}.{key}"
            if name not in own[section]:
                hint = did_you_mean(key, [*own[section], *known])
                raise ConfigError(f"--set {name}: unknown key{hint}")


def _dotted(table: Mapping[str, Any], where: str = "") -> Iterator[str]:
    for key, value in table.items():
        yield f"{where}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{where}{key}.")


def _merge(table: dict[str, Any], change: Mapping[str, Any], where: str = "") -> None:
    """Put a change into a table; a list of tables is addressed by name, `task.buy.weight=2`."""
    for key, value in change.items():
        name, found = f"{where}{key}", table.get(key)
        if isinstance(found, list) and isinstance(value, Mapping):
            named = {str(each.get("name")): each for each in found if isinstance(each, dict)}
            for each, inner in value.items():
                if each not in named:
                    raise ConfigError(
                        f"--set {name}.{each}: unknown name{did_you_mean(each, named)}"
                    )
                if not isinstance(inner, Mapping):
                    raise ConfigError(
                        f"--set {name}.{each}: name a key of it, such as {name}.{each}.weight=2"
                    )
                _merge(named[each], inner, f"{name}.{each}.")
        elif isinstance(found, dict) and isinstance(value, Mapping) and not _other(found, value):
            _merge(found, value, f"{name}.")
        else:
            table[key] = value


def _other(table: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """Whether a change names another kind, which has none of the options of this one."""
    kind = change.get("kind")
    return isinstance(kind, str) and "kind" in table and kind != table["kind"]
