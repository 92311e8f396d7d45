"""A warm start: yesterday's model goes on with today's rows."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from polyrank import spec
from polyrank.bundle.model import Bundle, load
from polyrank.data.learned import Learned, share_of_last
from polyrank.data.vocab import Before, Vocab
from polyrank.errors import ConfigError, SchemaError
from polyrank.layout import Layout
from polyrank.models.model import Model
from polyrank.models.ranker import Ranker
from polyrank.paths import absolute, local
from polyrank.schema import Schema
from polyrank.train.checkpoint import finished_state
from polyrank.train.loop import Trainer
from polyrank.train.training import AUTO, Training

logger = logging.getLogger(__name__)

MEMORY = "a bundle in memory"
FROZEN, REFITTED = "frozen", "refitted"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from instead of fresh weights; equals the `[start]` table.

    Vocabularies grow: ids keep their rows, and new ones get fresh rows behind them. The network
    goes on from its weights, and wide rows take the posterior of the earlier rows as their prior.

    Args:
        run: a run folder, a bundle folder, or a Bundle. A run folder has the state of the
            optimisers too; from a bundle they start anew.
        encodings: "frozen" keeps how numbers are encoded; "refitted" fits that on the new rows,
            and rows of a number's bins begin anew where it differs.
        retain: share by which earlier rows still count, above 0: in the prior of wide rows, which
            forget below 1, and in `rate`.
        rate: what learning rates are multiplied by. "auto" is √(n ÷ N) of n new rows among N that
            count, earlier ones by what is retained of them; see `Training.going_on`.

    Raises:
        ConfigError: a value of another kind.

    Examples:
        >>> Start(run="runs/monday", retain=0.9).encodings
        'frozen'
    """

    run: Any
    encodings: Literal["frozen", "refitted"] = FROZEN
    retain: float = 1.0
    rate: float | Literal["auto"] = AUTO

    def __post_init__(self) -> None:
        if not isinstance(self.run, str | Path | Bundle):
            raise ConfigError(
                f"start: run must be a run folder, a bundle folder or a Bundle, got {self.run!r}"
            )
        if self.encodings not in (FROZEN, REFITTED):
            raise ConfigError(
                f"start: encodings must be {FROZEN!r} or {REFITTED!r}, got {self.encodings!r}"
            )
        spec.number("start: retain", self.retain, above=0, most=1)
        if self.rate != AUTO:
            spec.number(f"start: rate, unless it is {AUTO!r},", self.rate, above=0)

    @classmethod
    def of(cls, given: Any) -> Start:
        """Return a Start of what `fit` takes as one."""
        return given if isinstance(given, Start) else cls(run=given)

    def to_table(self) -> dict[str, Any]:
        """Return the table of a TOML file, with an absolute path."""
        return {
            "run": MEMORY if isinstance(self.run, Bundle) else absolute(self.run),
            "encodings": self.encodings, "retain": float(self.retain),
            "rate": self.rate if self.rate == AUTO else float(self.rate),
        }  # fmt: skip

    @classmethod
    def from_table(cls, table: Mapping[str, Any], folder: Path) -> Start:
        """Read a `[start]` table; a relative path is in `folder`.

        Raises:
            ConfigError: an unknown key, a missing run, or a value of a wrong type.
        """
        spec.check_keys(table, [each.name for each in fields(cls)], "start")
        if "run" not in table:
            raise ConfigError("start: run is missing: name the run folder to go on from")
        run = table["run"]
        if isinstance(run, str) and run != MEMORY:
            run = absolute(run, folder)
        return cls(**{**table, "run": run})

    def opened(self) -> Origin:
        """Load the bundle, and say whether there is a state of the optimisers beside it."""
        if isinstance(self.run, Bundle):
            return Origin(self, self.run, None)
        if self.run == MEMORY:
            raise ConfigError(
                "start: the run began from a bundle in memory: save it, and name its folder as run"
            )
        path = local(self.run, "start: the run", read=True)
        return Origin(self, load(path), path if (path / "bundle").is_dir() else None)


@dataclass(frozen=True)
class Origin:
    """The bundle that a run starts from.

    Args:
        start: as it was declared.
        bundle: yesterday's.
        run: its run folder, if it is known.
    """

    start: Start
    bundle: Bundle
    run: Path | None

    @cached_property
    def version(self) -> str:
        """A name for the content of the bundle."""
        return self.bundle.version

    @property
    def before(self) -> Before:
        """What its vocabularies grow from."""
        return Before(self.bundle.vocab, self.start.encodings == REFITTED, self.version)

    def closed(self, schema: Schema) -> Schema:
        """Return a schema whose open kinds of label are those that the earlier rows closed."""
        known = self.bundle.schema.by_name
        tasks = [
            replace(task, kind=known[task.name].label_kind)
            if task.label_kind.is_open
            and task.name in known
            and type(known[task.name].label_kind) is type(task.label_kind)
            else task
            for task in schema.tasks
        ]
        return replace(schema, tasks=tuple(tasks))

    def training(self, training: Training, rows: int, learned: Sequence[Learned]) -> Training:
        """Return how so many new rows are trained on; the last run of those `learned` has them."""
        share = share_of_last(learned)
        found = training.going_on(rows, share, self.start.rate)
        logger.info(
            "warm start: %.3g %% of the rows that count are new; learning rates are times %.3g, "
            "and epochs %d", 100 * share, found.lr / training.lr, found.epochs,
        )  # fmt: skip
        return found

    def check(self, schema: Schema, model: Model) -> None:
        """Refuse a schema or a model that the weights are not of.

        Raises:
            SchemaError: a feature or a task that was added, removed or changed.
            ConfigError: another model.
        """
        _check_names("feature", schema.features, self.bundle.schema.features)
        _check_names("task", schema.tasks, self.bundle.schema.tasks)
        before, now = self.bundle.schema, schema
        for old, new in zip(before.features, now.features, strict=True):
            if _encoded(old) != _encoded(new):
                raise SchemaError(f"feature {new.name!r} was {old}, and is {new}: {_CHOICE}")
        if tuple(before.heads) != tuple(now.heads):
            raise SchemaError(
                f"the heads were {[each.name for each in before.heads]}, and are "
                f"{[each.name for each in now.heads]}, or of another kind: {_CHOICE}"
            )
        old, new = self.bundle.model.to_table(), model.to_table()
        for key in old | new:
            if old.get(key) != new.get(key):
                raise ConfigError(
                    f"model.{key} was {old.get(key)!r}, and is {new.get(key)!r}: {_CHOICE}"
                )

    def restarted(self, vocab: Vocab) -> frozenset[str]:
        """Return the features whose encoding was refitted to something else."""
        old = self.bundle.vocab.states
        return frozenset(name for name, state in vocab.states.items() if state != old[name])

    @torch.no_grad()
    def begin(self, ranker: Ranker, vocab: Vocab) -> None:
        """Copy the weights into a ranker that was just built; rows of new ids stay as drawn.

        Raises:
            ConfigError: an encoding that was refitted to other columns.
        """
        changed = self.restarted(vocab)
        names = {
            slot.name: feature.name
            for feature in ranker.layout.schema.features
            for slot in feature.slots
        }
        tables = {f"embed.{slot.table}" for slot in ranker.layout.schema.lookups}
        anew = {f"embed.{slot}" for slot, feature in names.items() if feature in changed}
        before = self.bundle.ranker.named_weights()
        for name, weight in ranker.named_weights().items():
            if name.partition(".")[0] in ranker.stages or name in anew:
                continue
            old = before[name]
            if name in tables and len(weight) >= len(old):
                weight[: len(old)] = old
            elif weight.shape == old.shape:
                weight.copy_(old)
            else:
                raise ConfigError(
                    f"the encodings of {sorted(changed)} were refitted to another number of "
                    f"columns ({name} was {tuple(old.shape)}, and is {tuple(weight.shape)}): keep "
                    f'encodings = "{FROZEN}", or train from scratch without start'
                )
        ranker.start_stages_from(
            before, {slot for slot, feature in names.items() if feature in changed},
            self.start.retain,
        )  # fmt: skip
        if changed:
            logger.info("encodings refitted, whose rows begin anew: %s", ", ".join(sorted(changed)))

    def go_on(self, trainer: Trainer) -> None:
        """Give a trainer the state of the optimisers, where the run folder has one for it."""
        reason = self._go_on(trainer)
        if reason:
            logger.info("the optimisers start anew: %s", reason)

    def _go_on(self, trainer: Trainer) -> str:
        if self.run is None:
            return "a bundle has no state of theirs; start from its run folder to keep it"
        tensors = finished_state(self.run)
        if tensors is None:
            return f"{self.run} has no checkpoint of one process that this polyrank reads"
        then, now = self.bundle.config["train"], trainer.training.to_table()
        for key in ("embeddings", "dense", "balance"):
            if then[key]["kind"] != now[key]["kind"]:
                return f"train.{key} was {then[key]['kind']!r}, and is {now[key]['kind']!r}"
        ranker = self.bundle.ranker
        trainer.take_optimizers(_grown(tensors, ranker.layout, trainer.ranker.layout))
        return ""


_CHOICE = (
    "learned weights do not fit; keep it as it was, or train from scratch without start on all rows"
)


def _check_names(what: str, now: Collection[Any], before: Collection[Any]) -> None:
    new, old = [each.name for each in now], [each.name for each in before]
    added = [name for name in new if name not in old]
    removed = [name for name in old if name not in new]
    if added:
        raise SchemaError(
            f"{what} {added[0]!r} is not in the bundle that the run starts from, which has "
            f"{', '.join(old)}: leave it out, or train from scratch without start on all rows"
        )
    if removed:
        raise SchemaError(
            f"{what} {removed[0]!r} of the bundle that the run starts from is missing: put it "
            "back, or train from scratch without start on all rows"
        )
    if new != old:
        raise SchemaError(f"the {what}s were in the order {', '.join(old)}: keep it")


def _encoded(feature: Any) -> dict[str, Any]:
    """Return the options of a feature that decide its weights; an id may be rarer than before."""
    return {k: v for k, v in spec.to_table(feature).items() if k != "min_count"} | {
        "kind": feature.kind
    }


def _grown(tensors: Mapping[str, Tensor], before: Layout, now: Layout) -> dict[str, Tensor]:
    """Return a saved state whose rows of ids lie where the tables now are; new ones are 0."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner != "embeddings" or not rest.partition(".")[0].isdecimal():
            continue
        index = int(rest.partition(".")[0])
        old, new = before.packs[index], now.packs[index]
        if tensor.ndim == 0 or len(tensor) != old.rows:
            continue
        moved = tensor.new_zeros(new.rows, *tensor.shape[1:])
        for table, offset in old.offsets.items():
            rows = min(before.vocab.rows[table], now.vocab.rows[table])
            at = new.offsets[table]
            moved[at : at + rows] = tensor[offset : offset + rows]
        found[name] = moved
    return found
