"""Optimisers of embedding rows and of the dense part, and learning-rate schedules.

An optimiser's name in a configuration is its key in a table at the end. Those of rows stand behind
the cut at x: they take the ids of a batch and x's gradient. On the CPU a compiled rule of
`nn.kernels` does the work; on other devices, or without one, the spec's `step` in torch.

Letters: F id features, B rows of the batch, W columns of x, R rows of a pack or some of them, w
columns of the pack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.errors import ConfigError
from polyrank.nn import kernels
from polyrank.nn.embed import PackedEmbedder
from polyrank.registry import Registry
from polyrank.train.row_engine import EmbeddingEngine, RowEngine, Visits


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptimizer(ABC):
    """Base of the optimisers of embedding rows.

    Args:
        lr: step size; None takes the dense part's times `training.ROW_LR_RATIO`.
        l2: added to the gradient as l2 · row; None takes the dense part's coupled weight decay.

    Attributes:
        by_ranks: whether its engine takes the batches of several processes, `visits.ranks`, as one.
    """

    by_ranks: ClassVar[bool] = False

    lr: float | None = None
    l2: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "l2")

    @abstractmethod
    def build(
        self, embed: PackedEmbedder, l2: float, visits: Visits | None = None
    ) -> EmbeddingEngine:
        """Return the engine that updates an embedder on the rows that `visits` counts."""


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

    Examples:
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

    by_ranks = True

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

    Examples:
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

    Examples:
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

    Examples:
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

    Examples:
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
