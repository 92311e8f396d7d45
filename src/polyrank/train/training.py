"""The `[train]` table as a frozen spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import sqrt
from typing import Any, Literal, NamedTuple

from polyrank import spec
from polyrank.balance import BALANCES, Balance, Sum
from polyrank.errors import ConfigError
from polyrank.train import optim

AUTO: Literal["auto"] = "auto"
REPLICATED, SHARDED = "replicated", "sharded"
SEEN_ROWS = 2_000_000  # by a network whose epochs are "auto"
WARM_EPOCHS = 4  # of a warm start, whose network knows most of what it is to learn
LEAST_EPOCHS, MOST_EPOCHS = 8, 20  # where they are "auto"
ROW_LR_RATIO = 4 / 3  # of the embedding rows' step size to that of the dense part


class Pace(NamedTuple):
    """How long a run is."""

    epochs: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Early stopping on a score of the validation rows.

    Args:
        score: a scorecard row's name, `buy @ all`.
        metric: a metric with a direction, `auc`.
        patience: epochs without a new best before training stops.
    """

    score: str
    metric: str = "auc"
    patience: int = 3

    def __post_init__(self) -> None:
        spec.whole("stop: patience", self.patience)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Checkpoints within an epoch, beside the one after each.

    Args:
        steps: after so many steps of an epoch, and again.
        minutes: or after so much time since the last one.

    Raises:
        ConfigError: both of them, or none.

    Examples:
        >>> Checkpoint(steps=2000).steps
        2000
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError("checkpoint takes steps or minutes: give one of them")
        if self.steps is not None:
            spec.whole("checkpoint: steps", self.steps)
        if self.minutes is not None:
            spec.number("checkpoint: minutes", self.minutes, above=0)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; equals the `[train]` table.

    What the optimisers inherit is filled in, so that every value shows.

    Args:
        epochs: passes over the training rows; "auto" goes by their number, see `pace`.
        batch_size: rows per step; likewise.
        lr: step size of the dense part, and times `ROW_LR_RATIO` of embedding rows, where they
            have none of their own.
        embeddings: optimiser of embedding rows.
        dense: optimiser of all other parameters.
        balance: how several losses become one step.
        stop: early stopping; without it all epochs run, and the kept one has the lowest Σ over
            heads of task weight × validation loss on the rows where the head's parent happened ÷
            the loss of its best constant.
        schedule: of the learning rate, over all steps of the run.
        threads: of torch, while training; a small model on a busy machine is fastest with 1.
        device: a torch device.
        unseen_rate: probability with which a training id is replaced by row 0 of its table.
        checkpoint: also within an epoch; without it a run resumes after its last whole epoch.
        compile: whether the dense part of a full batch is compiled into one graph, which takes
            some 10 seconds at the first one and pays on long runs. Needs a C++ compiler, `Adam` or
            `AdamW` for the dense part, and any balance but `GradNorm` and `MetaBalance`.
        tables: of several processes, whether each has all rows of the tables ("replicated") or they
            hold them between them ("sharded"); "auto" is sharded where one process has no room for
            all.

    Examples:
        >>> Training.from_table(Training(epochs=2).to_table()) == Training(epochs=2)
        True
    """

    epochs: int | Literal["auto"] = AUTO
    batch_size: int | Literal["auto"] = AUTO
    lr: float = 3e-3
    embeddings: optim.EmbeddingOptimizer = field(default_factory=optim.LazyAdam)
    dense: optim.Adam = field(default_factory=optim.Adam)
    balance: Balance = field(default_factory=Sum)
    stop: Stop | None = None
    schedule: optim.Schedule = field(default_factory=optim.Linear)
    threads: int = 1
    device: str = "cpu"
    unseen_rate: float = 0.001
    checkpoint: Checkpoint | None = None
    compile: bool = False
    tables: Literal["auto", "replicated", "sharded"] = AUTO

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads"):
            if getattr(self, name) != AUTO or name == "threads":
                unless = f", unless it is {AUTO!r}," * (name != "threads")
                spec.whole(f"{name}{unless}", getattr(self, name))
        if self.tables not in (AUTO, REPLICATED, SHARDED):
            raise ConfigError(
                f"tables must be {AUTO!r}, {REPLICATED!r} or {SHARDED!r}, got {self.tables!r}"
            )
        if not isinstance(self.compile, bool):
            raise ConfigError(f"compile must be true or false, got {self.compile!r}")
        spec.number("lr", self.lr, above=0)
        if self.stop is not None and not isinstance(self.stop, Stop):
            raise ConfigError(f"stop must be a Stop(score=…), got {self.stop!r}")
        if self.checkpoint is not None and not isinstance(self.checkpoint, Checkpoint):
            raise ConfigError(f"checkpoint must be a Checkpoint(steps=…), got {self.checkpoint!r}")
        spec.number("unseen_rate", self.unseen_rate, least=0, below=1)
        dense_lr = self.lr if self.dense.lr is None else self.dense.lr
        dense = replace(self.dense, lr=dense_lr)
        lr = dense_lr * ROW_LR_RATIO if self.embeddings.lr is None else self.embeddings.lr
        l2 = dense.l2 if self.embeddings.l2 is None else self.embeddings.l2
        object.__setattr__(self, "dense", dense)
        object.__setattr__(self, "embeddings", replace(self.embeddings, lr=lr, l2=l2))

    def pace(self, rows: int, ranks: int = 1) -> Pace:
        """Return the epochs and the rows per step of a log of so many training rows.

        Rows per step are those of each of so many processes; "auto" shares out those of one.

        Where they are "auto", a batch is a power of 2 of about a 32nd of the rows, from 64 to 1024,
        and epochs are as many as show the network `SEEN_ROWS` rows, from 8 to 20. With the numbers
        of a large log, training on a small one would end before it has learned anything.

        Examples:
            >>> Training().pace(7_000), Training().pace(10**6)
            (Pace(epochs=20, batch_size=128), Pace(epochs=8, batch_size=1024))
        """
        size, epochs = self.batch_size, self.epochs
        if size == AUTO:
            size = min(max(2 ** (rows // 32).bit_length() // 2, 64), 1024)
            size = -(-size // ranks)
        if epochs == AUTO:
            epochs = min(max(round(SEEN_ROWS / max(rows, 1)), LEAST_EPOCHS), MOST_EPOCHS)
        return Pace(epochs, size)

    def going_on(self, rows: int, share: float, rate: float | Literal["auto"] = AUTO) -> Training:
        """Return how a warm start is trained on so many new rows.

        Learning rates are multiplied by `rate`: "auto" is √share, since a tenth of the rows by
        which the model is judged should not move it as far as all. At the full rate a network
        forgets the days before for the last one. Epochs that are "auto" are no more than
        `WARM_EPOCHS`. Both are chosen by docs/warm_start.md.

        Args:
            rows: training rows of the run.
            share: of these in all rows that count, those of earlier runs included.
            rate: a factor, or "auto".

        Examples:
            >>> found = Training(lr=0.004).going_on(100_000, share=0.25)
            >>> found.lr, found.dense.lr, found.epochs, Training().pace(100_000).epochs
            (0.002, 0.002, 4, 20)
        """
        factor = sqrt(share) if rate == AUTO else rate
        epochs = self.pace(rows).epochs
        if self.epochs == AUTO:
            epochs = min(epochs, WARM_EPOCHS)
        # __post_init__ has filled these in.
        assert self.dense.lr is not None
        assert self.embeddings.lr is not None
        return replace(
            self, epochs=epochs, lr=factor * self.lr,
            dense=replace(self.dense, lr=factor * self.dense.lr),
            embeddings=replace(self.embeddings, lr=factor * self.embeddings.lr),
        )  # fmt: skip

    def to_table(self) -> dict[str, Any]:
        """Return plain tables, with every default and every inherited value shown."""
        table = spec.to_table(self)
        for name, registry in _REGISTRIES.items():
            table[name] = spec.chosen(registry, getattr(self, name))
        return table

    def own_table(self) -> dict[str, Any]:
        """Return plain tables without what is inherited, so that another lr or decay is as well.

        Examples:
            >>> table = Training().own_table() | {"lr": 1e-2}
            >>> Training.from_table(table).dense.lr
            0.01
        """
        table = self.to_table()
        assert self.dense.lr is not None  # filled in
        inherited = {
            "dense": {"lr": self.lr},
            "embeddings": {"lr": self.dense.lr * ROW_LR_RATIO, "l2": self.dense.l2},
        }
        for name, own in inherited.items():
            kept = {k: v for k, v in table[name].items() if k not in own or own[k] != v}
            table[name] = kept
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Training:
        """Read what `to_table` wrote, or a part of it.

        Raises:
            ConfigError: an unknown key or kind, or a value of a wrong type.
        """
        spec.check_keys(table, [each.name for each in fields(cls)], "train")
        chosen = {
            name: spec.choose(registry, table[name], f"train.{name}")
            for name, registry in _REGISTRIES.items()
            if name in table
        }
        if "stop" in table:
            chosen["stop"] = spec.from_table(Stop, table["stop"], "train.stop")
        if "checkpoint" in table:
            given = spec.from_table(Checkpoint, table["checkpoint"], "train.checkpoint")
            chosen["checkpoint"] = given
        rest = {key: value for key, value in table.items() if key not in chosen}
        return replace(spec.from_table(cls, rest, "train"), **chosen)


_REGISTRIES: dict[str, Mapping[str, type]] = {
    "embeddings": optim.EMBEDDINGS,
    "dense": optim.DENSE,
    "balance": BALANCES,
    "schedule": optim.SCHEDULES,
}
