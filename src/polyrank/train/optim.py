"""Optimisers of embedding rows and of the dense part, and learning-rate schedules.

An optimiser's name in a configuration is its key in a table at the end. Those of rows stand behind
the cut at x: they take the ids of a batch and x's gradient. On the CPU a compiled rule of
`nn.kernels` does the work; on other devices, or without one, the spec's `step` in torch.

Letters: F id features, B rows of the batch, W columns of x, R rows of a pack or some of them, w
columns of the pack.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, sqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.data.statistics import look_ups
from polyrank.data.table import Table
from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.nn import kernels
from polyrank.nn.embed import Bags, PackedEmbedder, TensorBag
from polyrank.registry import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Visits:
    """How often an epoch of training looks up each row of the packs: read where one is paid for.

    Args:
        train: the training rows.
        layout: where they are looked up.
        batch_size: rows per step.
        unseen_rate: of id dropout.
    """

    train: Table
    layout: Layout
    batch_size: int
    unseen_rate: float = 0.0

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return ceil(len(self.train) / self.batch_size)

    def counts(self) -> tuple[np.ndarray, ...]:
        """Return the look-ups of each row, expected and at least 1: float32 (R,) a pack."""
        schema, rows = self.train.schema, self.layout.vocab.rows
        found = look_ups(self.train, rows, self.unseen_rate)
        packs = []
        for pack in self.layout.packs:
            total = np.zeros(pack.rows)
            for slot in schema.lookups:
                if slot.table in pack.offsets:
                    first = pack.offsets[slot.table]
                    total[first : first + rows[slot.table]] += found[slot.name]
            packs.append(np.maximum(total, 1).astype(np.float32))
        return tuple(packs)


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptimizer(ABC):
    """Base of the optimisers of embedding rows.

    Args:
        lr: step size; None takes the dense part's times `training.ROW_LR_RATIO`.
        l2: added to the gradient as l2 · row; None takes the dense part's coupled weight decay.
    """

    lr: float | None = None
    l2: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "l2")

    @abstractmethod
    def build(
        self, embed: PackedEmbedder, l2: float, visits: Visits | None = None
    ) -> EmbeddingEngine:
        """Return the engine that updates an embedder on the rows that `visits` counts."""


class EmbeddingEngine(ABC):
    """Updates an embedder from x's gradient; its state goes into checkpoints."""

    @abstractmethod
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        """Update the rows of one batch: ids (F, B), gradient (B, W) of x, the sequences' bags."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the state as named tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""


def check_numbers(optimizer: Any, decay: str) -> None:
    """Refuse step sizes, decays, betas and eps with which no optimiser works."""
    name = type(optimizer).__name__
    if optimizer.lr is not None:
        spec.number(f"{name}: lr", optimizer.lr, above=0)
    if (value := getattr(optimizer, decay)) is not None:
        spec.number(f"{name}: {decay}", value, least=0)
    betas = getattr(optimizer, "betas", (0, 0))
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{name}: betas must be two numbers in [0, 1), got {betas}")
    spec.number(f"{name}: eps", getattr(optimizer, "eps", 0), least=0)


@dataclass(frozen=True, kw_only=True)
class RowOptimizer(EmbeddingOptimizer):
    """Base of the optimisers that step a row by the sum of its gradients in the batch.

    `prior` and `decay` are paid by count: of its look-ups in an epoch (at least 1), a row pays for
    the share in this batch. So each epoch costs a frequent id and a rare one the same, and neither
    anything in batches without it; a row that training never looks up stays as it was drawn.

    Args:
        prior: precision of a Gaussian prior of each weight, beside the summed losses of the rows:
            prior · share ÷ B · row is added to the gradient, with B rows in the batch.
        decay: decoupled weight decay, as strong over an epoch as AdamW's on every row at every
            step: a row is multiplied by e^(−lr · decay · steps of an epoch · share), before it is
            stepped and before l2 and the prior look at it.

    Attributes:
        rule: the number of its compiled rule in `nn.kernels`, or None: `step` runs on the CPU too.
        every_row: whether rows outside the batch are stepped too, by a gradient of 0.
        state_columns: of each state, by a name of your choice, the columns; None is those of the
            pack. A compiled rule has at most two.

    Example:
        >>> class SignSGD(RowOptimizer):
        ...     def numbers(self, lr, steps):
        ...         return (lr,)
        ...     def step(self, weight, gradient, state, numbers):
        ...         weight.sub_(gradient.sign(), alpha=numbers[0])
        >>> SignSGD(lr=0.1).numbers(0.1, steps=1)
        (0.1,)

    Reference:
        Loshchilov and Hutter, ICLR 2019, algorithm 2 (the decay).
    """

    prior: float = 0.0
    decay: float = 0.0

    rule: ClassVar[int | None] = None
    every_row: ClassVar[bool] = False
    state_columns: ClassVar[Mapping[str, int | None]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prior", "decay"):
            spec.number(f"{type(self).__name__}: {name}", getattr(self, name), least=0)

    def build(self, embed: PackedEmbedder, l2: float, visits: Visits | None = None) -> RowEngine:
        return RowEngine(self, embed, l2, visits)

    @abstractmethod
    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return what the rule needs beside l2, at a step of the run counted from 1."""

    @abstractmethod
    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        """Step rows in place, in torch.

        Args:
            weight: the rows.
            gradient: the sum of each one's gradients, with l2 · row.
            state: of the rows, in the order of `state_columns`.
            numbers: of `numbers`.

        Shape:
            weight, gradient: (R, w) · state: (R, columns) each
        """


class RowEngine(EmbeddingEngine):
    """The packs' state; tables are dealt out to the threads that torch has when it is built."""

    def __init__(
        self,
        optimizer: RowOptimizer,
        embed: PackedEmbedder,
        l2: float,
        visits: Visits | None = None,
    ) -> None:
        self.spec, self.embed, self.l2 = optimizer, embed, l2
        self.steps = 0
        self._counts: list[Tensor] | None = None
        if optimizer.prior or optimizer.decay:
            if visits is None:
                raise ValueError("prior and decay are paid by count: build needs the visits")
            self._steps_of_epoch = visits.steps
            self._counts = [
                torch.from_numpy(each).to(pack.device)
                for each, pack in zip(visits.counts(), embed.pack, strict=True)
            ]
        self.packs = [
            [
                torch.zeros(len(pack), columns or pack.shape[1], device=pack.device)
                for columns in optimizer.state_columns.values()
            ]
            for pack in embed.pack
        ]
        self._named = {
            f"{index}.{name}": tensor
            for index, state in enumerate(self.packs)
            for name, tensor in zip(optimizer.state_columns, state, strict=True)
        }
        on_cpu = all(pack.device.type == "cpu" for pack in embed.pack)
        self.compiled = on_cpu and optimizer.rule is not None
        if on_cpu and not self.compiled:
            name = type(optimizer).__name__
            logger.warning("row optimiser %s has no compiled rule: it runs in torch", name)
        self._scratch = [_Scratch(embed, i) for i in range(len(embed.pack)) if self.compiled]

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        self.steps += 1
        numbers = self.spec.numbers(lr, self.steps)
        prior, decay = self._owed(lr, len(gradient))
        if not self.compiled:
            self._step_in_torch(ids, gradient, numbers, bags, prior, decay)
            return
        fields, x_gradient = ids.contiguous().numpy(), gradient.contiguous().numpy()
        of_rule = np.array([self.l2, *numbers], dtype=np.float32)
        for weight, state, scratch, counts in zip(
            self.embed.pack, self.packs, self._scratch, self._counts_of_packs(), strict=True
        ):
            plan = scratch.plan
            some = Bags.of(bags, plan.sequences)
            touched, touches, sums = scratch.of(plan.most(len(gradient), some))
            first, second = [*(each.numpy() for each in state), _NONE, _NONE][:2]
            with kernels.ONE_AT_A_TIME:
                kernels.update(
                    fields, some.ids, some.starts, some.weights, plan.lookups, plan.starts,
                    scratch.order, plan.first_rows, x_gradient, scratch.slot, touched, touches,
                    sums, weight.detach().numpy(), first, second, self.spec.rule, of_rule,
                    self.spec.every_row, _NO_COUNTS if counts is None else counts.numpy(),
                    np.float32(prior), np.float32(decay), kernels.constant(weight.shape[1]),
                )  # fmt: skip

    def _owed(self, lr: float, rows: int) -> tuple[float, float]:
        """Return what a whole share costs at this step: the prior's pull, and −log of the decay."""
        if self._counts is None:
            return 0.0, 0.0
        return self.spec.prior / rows, lr * self.spec.decay * self._steps_of_epoch

    def _counts_of_packs(self) -> Sequence[Tensor | None]:
        return [None] * len(self.packs) if self._counts is None else self._counts

    def _step_in_torch(
        self,
        ids: Tensor,
        gradient: Tensor,
        numbers: Sequence[float],
        bags: Sequence[TensorBag],
        prior: float,
        decay: float,
    ) -> None:
        pairs = self.embed.row_gradients(ids, gradient, bags)
        for pack, state, counts, (rows, each) in zip(
            self.embed.pack, self.packs, self._counts_of_packs(), pairs, strict=True
        ):
            touched, inverse = slice(None), rows
            if not self.spec.every_row:
                touched, inverse = torch.unique(rows, return_inverse=True)
            weight, some = pack[touched], [whole[touched] for whole in state]
            g = torch.zeros_like(weight).index_add_(0, inverse, each)
            if counts is not None:
                times = torch.zeros(len(g), device=g.device)
                times.index_add_(0, inverse, torch.ones_like(times[:1]).expand(len(inverse)))
                share = (times / counts[touched]).clamp_(max=1)[:, None]
                weight.mul_(torch.exp(-decay * share))
                g.addcmul_(share, weight, value=prior)
            self.spec.step(weight, g.add_(weight, alpha=self.l2), some, numbers)
            if not self.spec.every_row:
                for whole, part in zip([pack, *state], [weight, *some], strict=True):
                    whole[touched] = part

    def state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.steps), **self._named}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.steps = int(state["steps"])
        for name, tensor in self._named.items():
            tensor.copy_(state[name])


_NONE = np.zeros((1, 1), dtype=np.float32)  # in the place of a state that the rule does not have
_NO_COUNTS = np.zeros(0, dtype=np.float32)


class _Scratch:
    """What a pack's kernel needs beside its arguments, kept from step to step."""

    def __init__(self, embed: PackedEmbedder, index: int) -> None:
        self.plan = embed.lookups[index]
        self.order = self.plan.order(torch.get_num_threads())
        self.slot = np.full(len(embed.pack[index]), -1, dtype=np.int32)
        self.width = embed.pack[index].shape[1]
        self._touched = self._touches = np.empty((0, 0), dtype=np.int32)
        self._sums = np.empty((0, 0, self.width), dtype=np.float32)

    def of(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `touched`, `touches` and `sums` of each thread, with room for one table's rows."""
        if most > self._touched.shape[1] or not len(self._touched):
            threads = len(self.order)
            self._touched = np.empty((threads, most), dtype=np.int32)
            self._touches = np.empty((threads, most), dtype=np.int32)
            self._sums = np.empty((threads, most + 1, self.width), dtype=np.float32)
            self._sums[:, -1] = 0
        return self._touched, self._touches, self._sums


@dataclass(frozen=True, kw_only=True)
class LazyAdam(RowOptimizer):
    """Adam on the rows that a batch touches; the others keep weight and moments.

    The bias correction counts the steps of the run, not those of the row. l2 acts on touched rows
    only. It is not dense Adam: a row that a batch does not touch neither moves nor decays. The
    defaults of prior and decay are chosen by docs/evidence.md.

    Args:
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1, applied to the rows of the batch.
    """

    prior: float = 3.0
    decay: float = 2.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    rule = kernels.ADAM
    state_columns = {"first": None, "second": None}  # noqa: RUF012 (read only)

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        """Return 1 − β₁, β₂, 1 − β₂, lr ÷ (1 − β₁ᵗ), 1 ÷ √(1 − β₂ᵗ) and eps at step t."""
        keep1, keep2 = self.betas
        size, correction = lr / (1 - keep1**steps), 1 / sqrt(1 - keep2**steps)
        return 1 - keep1, keep2, 1 - keep2, size, correction, self.eps

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        add1, keep2, add2, size, correction, eps = numbers
        m, v = state
        m.lerp_(gradient, add1)
        v.mul_(keep2).addcmul_(gradient, gradient, value=add2)
        weight.addcdiv_(m, v.sqrt().mul_(correction).add_(eps), value=-size)


@dataclass(frozen=True, kw_only=True)
class DenseAdam(LazyAdam):
    """Adam on every row at every step, by the maths of `torch.optim.Adam`: slow on large tables.

    l2 is coupled, so that a row that no batch touches shrinks at every step. Its options are those
    of `LazyAdam`.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1.
    """

    prior: float = 0.0
    decay: float = 0.0

    every_row = True


@dataclass(frozen=True, kw_only=True)
class Adagrad(RowOptimizer):
    """Adagrad on the rows that a batch touches: w ← w − lr · g ÷ (√Σg² + eps), weight by weight.

    g is the gradient plus l2 · row, on touched rows only. A row that no batch touches has gradient
    0, so that without l2 this is Adagrad on every row. Its steps only shrink: it wants a larger lr
    than Adam, 0.01 to 0.1.

    Args:
        eps: added to the root of the sum of squares.

    Reference:
        Duchi, Hazan and Singer, JMLR 12, 2011, section 1.1 (the diagonal version).
    """

    eps: float = 1e-10

    rule = kernels.ADAGRAD
    state_columns = {"total": None}  # noqa: RUF012 (read only)

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        return lr, self.eps

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        lr, eps = numbers
        (total,) = state
        total.addcmul_(gradient, gradient)
        weight.addcdiv_(gradient, total.sqrt().add_(eps), value=-lr)


@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one step size per row: w ← w − lr · g ÷ (√Σ mean(g²) + eps).

    The mean is over the row, so that its state is one number per row, where Adam has two per
    weight. l2, lr and eps are as in `Adagrad`.

    Reference:
        Duchi, Hazan and Singer, JMLR 12, 2011; the mean over a row as in Mudigere et al., ISCA
        2022, section 4.1.4.
    """

    rule = kernels.ROWWISE_ADAGRAD
    state_columns = {"total": 1}  # noqa: RUF012 (read only)

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        lr, eps = numbers
        (total,) = state
        total.add_(gradient.square().mean(dim=1, keepdim=True))
        weight.sub_(gradient * (lr / (total.sqrt() + eps)))


@dataclass(frozen=True, kw_only=True)
class SGD(RowOptimizer):
    """w ← w − lr · g on the rows that a batch touches; g is the gradient plus l2 · row.

    It has no state. Without l2 it is the same as on every row.

    Reference:
        Robbins and Monro, Annals of Mathematical Statistics 22, 1951.
    """

    rule = kernels.SGD

    def numbers(self, lr: float, steps: int) -> tuple[float, ...]:
        return (lr,)

    def step(
        self, weight: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Sequence[float]
    ) -> None:
        weight.sub_(gradient, alpha=numbers[0])


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam of the dense part, with coupled weight decay as in `torch.optim.Adam`.

    Args:
        lr: step size; None takes the run's.
        weight_decay: added to the gradient as weight_decay · parameter.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1.
    """

    lr: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_numbers(self, "weight_decay")

    @property
    def l2(self) -> float:
        """The coupled decay, which embedding rows inherit."""
        return self.weight_decay

    def build(self, groups: Sequence[dict], lr: float) -> torch.optim.Optimizer:
        """Return the optimiser of parameter groups."""
        return torch.optim.Adam(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam of the dense part with decoupled weight decay, as in `torch.optim.AdamW`.

    Each step multiplies a parameter by 1 − lr · weight_decay. Embedding rows do not inherit it:
    theirs is `RowOptimizer.decay`. Its other options are those of `Adam`.

    Reference:
        Loshchilov and Hutter, ICLR 2019, algorithm 2.
    """

    weight_decay: float = 0.01

    @property
    def l2(self) -> float:
        return 0.0

    def build(self, groups: Sequence[dict], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a torch optimiser's state as named tensors: {"3.exp_avg": …}."""
    return {
        f"{index}.{name}": tensor
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_state` returned."""
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        index, name = key.split(".", 1)
        nested.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": nested, "param_groups": groups})


def parameter_groups(
    dense: Sequence[nn.Parameter], balance: Sequence[nn.Parameter], weight_decay: float
) -> list[dict]:
    """Return the groups of the dense optimiser: the balance's own parameters are not decayed."""
    groups = [{"params": list(dense), "weight_decay": weight_decay}]
    if balance:
        groups.append({"params": list(balance), "weight_decay": 0.0})
    return groups


class Schedule(ABC):
    """Base of the schedules: frozen specs of what both learning rates are multiplied by.

    Attributes:
        watches_validation: whether it needs to know which epochs were better than all before.

    Example:
        >>> @dataclass(frozen=True)
        ... class Halved(Schedule):
        ...     def factor(self, step, steps, improved=()):
        ...         return 0.5 ** len(improved)
        >>> Halved().factor(7, steps=9, improved=[True, True])
        0.25
    """

    watches_validation: ClassVar[bool] = False

    @abstractmethod
    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        """Return what the learning rate is multiplied by at one step of the run.

        A schedule keeps no state of its own, so that a resumed run goes on as it would have.

        Args:
            step: done so far, from 0.
            steps: of the run.
            improved: of each epoch done, whether its validation value was the best so far.
        """


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays."""

    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """The learning rate falls linearly to 0 at the end of the run, after a linear warm-up.

    Args:
        warmup: share of the steps that rise linearly from 0.

    Example:
        >>> [Linear().factor(step, 4) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]

    Reference:
        Defazio et al., Optimal linear decay learning rate schedules and further refinements, 2023.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        spec.number("Linear: warmup", self.warmup, least=0, most=1)

    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        rising = self.warmup * steps
        if step < rising:
            return _risen(step, rising)
        return 1 - (step - rising) / max(steps - rising, 1)


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """The learning rate shrinks each time that `patience` epochs in a row were not the best so far.

    What is compared is what chooses the kept epoch: the score of `stop`, else the validation loss.

    Args:
        shrink: what the learning rate is multiplied by.
        patience: epochs without a new best before it is; then they are counted anew.

    Example:
        >>> [Plateau().factor(0, 1, [True, False, True, False, False][:done]) for done in range(4)]
        [1.0, 1.0, 0.1, 0.1]
    """

    watches_validation = True

    shrink: float = 0.1
    patience: int = 1

    def __post_init__(self) -> None:
        spec.number("Plateau: shrink", self.shrink, above=0, below=1)
        spec.whole("Plateau: patience", self.patience)

    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        stale = falls = 0
        for better in improved:
            stale = 0 if better else stale + 1
            if stale == self.patience:
                stale, falls = 0, falls + 1
        return self.shrink**falls


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """The learning rate falls to 0 along half a cosine, after a linear warm-up.

    Args:
        warmup: share of the steps that rise linearly from 0.

    Example:
        >>> [round(Cosine().factor(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]

    Reference:
        Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        spec.number("Cosine: warmup", self.warmup, least=0, most=1)

    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        rising = self.warmup * steps
        if step < rising:
            return _risen(step, rising)
        return (1 + cos(pi * (step - rising) / max(steps - rising, 1))) / 2


def _risen(step: int, rising: float) -> float:
    return (step + 1) / (rising + 1)  # the first step does something


DENSE: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}
EMBEDDINGS: Registry[type[EmbeddingOptimizer]] = Registry(
    "row_optimizer",
    {
        "lazy_adam": LazyAdam,
        "rowwise_adagrad": RowwiseAdagrad,
        "adagrad": Adagrad,
        "sgd": SGD,
        "adam": DenseAdam,
    },
)
SCHEDULES: Registry[type[Schedule]] = Registry(
    "schedule", {"constant": Constant, "cosine": Cosine, "linear": Linear, "plateau": Plateau}
)
