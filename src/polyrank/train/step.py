"""One step of the dense part: from x and labels to x's gradient and updated parameters.

Letters: B rows of the batch, W columns of x, L labels, T terms or heads with a margin, P
parameters.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from polyrank.balance import BalanceModule, ScalarBalance
from polyrank.balance.gradients import term_gram
from polyrank.errors import ConfigError, TrainingError
from polyrank.models.outputs import Tensors
from polyrank.models.ranker import Ranker
from polyrank.objective.losses import Supervision
from polyrank.ranks import ALONE, Ranks
from polyrank.train.optim import Adam, AdamW, set_lr
from polyrank.train.training import Training

logger = logging.getLogger(__name__)

Graph = Callable[..., Sequence[Tensor]]
Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class StepParts:
    """What a step works with."""

    ranker: Ranker
    supervision: Supervision
    balance: BalanceModule
    dense: torch.optim.Optimizer  # of the dense part and of the balance
    mark: Callable[[str], None]  # called at the end of each part of the step
    ranks: Ranks = ALONE  # the processes whose batches make one joined batch


class Stepped(NamedTuple):
    """What a step returns."""

    gradient: Tensor  # of x: (B, W)
    losses: Tensor  # of each term, then each penalty: (T + penalties,)
    rows: Tensor  # of each term in the batch: (T,)

    @classmethod
    def of(cls, gradient: Tensor, losses: Named, penalties: Named, rows: Named) -> Stepped:
        """Stack what was computed by name."""
        each = [loss.detach() for loss in (*losses.values(), *penalties.values())]
        return cls(gradient, torch.stack(each), torch.stack(list(rows.values())))


class EagerStep:
    """The step as torch runs it, operation by operation: any balance, any optimiser, any batch."""

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts
        self.names: tuple[str, ...] = ()
        self._behind_x = parts.ranker.dense_parameters()
        self._shared = parts.ranker.shared_parameters()
        self._running = running_statistics(parts.ranker) if parts.ranks.several else []
        self._stepped = [each for group in parts.dense.param_groups for each in group["params"]]
        self._lr: float | None = None
        self.gram: np.ndarray | None = None

    def __call__(
        self, x: Tensor, margin: Tensor | None, batch: Tensors, lr: float,
        joined: int | None = None, *, measure: bool = False,
    ) -> Stepped:  # fmt: skip
        """Step on a batch; x is (B, W), the margins of first stages (B, T).

        Of several processes, each has a part of a batch of `joined` rows: 0 or more of them. To
        measure is to set `gram` to the inner products of the terms' gradients at what they share,
        before the step: (T, T).
        """
        parts, several = self.parts, self.parts.ranks.several
        x.requires_grad_()
        scores = parts.ranker(x, margin)
        losses, rows = parts.supervision.losses(
            scores.logits, batch.labels, batch.weight, batch.extras, joined, batch.requests
        )
        penalties = scores.penalties
        if several:
            assert joined is not None
            penalties = {name: each * (len(x) / joined) for name, each in penalties.items()}
            if parts.balance.by_value:
                losses = self._joined(losses)
        parts.mark("forward")
        for parameter in self._stepped:
            parameter.grad = None
        pulled = _gradients(penalties, [x, *self._behind_x]) if penalties else ()
        if measure:
            self.gram = term_gram(list(losses.values()), [x, *self._shared], parts.ranks)
        parts.balance.backward(losses, [x, *self._shared])
        for tensor, gradient in pulled:  # last: a balance may set gradients as it likes
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
        parts.mark("backward")
        if several:
            losses, penalties, rows = self._add_up(losses, penalties, rows)
            parts.mark("exchange")
        if lr != self._lr:
            set_lr(parts.dense, lr)
            self._lr = lr
        parts.dense.step()
        parts.mark("dense step")
        assert x.grad is not None
        if not self.names:
            self.names = _names(losses, penalties)
        return Stepped.of(x.grad, losses, penalties, rows)

    def _joined(self, values: Named) -> dict[str, Tensor]:
        """Return sums over all processes, of which each has the gradient of its own part."""
        total = torch.stack([each.detach() for each in values.values()])
        self.parts.ranks.total([total])
        return {
            name: _OfAll.apply(each, whole)
            for (name, each), whole in zip(values.items(), total, strict=True)
        }

    def _add_up(self, losses: Named, penalties: Named, rows: Named) -> list[dict[str, Tensor]]:
        """Add up gradients and what is logged over all processes, with one message.

        Of running statistics it takes the mean. The gradients of the balance's own parameters are
        of the joined losses already.
        """
        ranks, by_value = self.parts.ranks, self.parts.balance.by_value
        gradients = [each.grad for each in self._behind_x if each.grad is not None]
        logged = [
            {name: each.detach().clone() for name, each in named.items()}
            for named in (losses, penalties, rows)
        ]
        known = logged[1:] if by_value else logged  # joined losses are the same everywhere
        said = [each for named in known for each in named.values()]
        ranks.total([*gradients, *said, *self._running])
        for each in self._running:
            each.div_(ranks.count)
        return logged


class _OfAll(torch.autograd.Function):
    """The value of a whole, with the gradient of one of its summands."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, whole: Tensor) -> Tensor:  # noqa: ARG004
        return whole.to(part.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def running_statistics(ranker: Ranker) -> list[Tensor]:
    """Return the running statistics of norms, each once, though experts have views of a bank's."""
    found: dict[int, Tensor] = {}
    for part in ranker.parts.values():
        for name, each in part.named_buffers():
            at = each.untyped_storage().data_ptr()
            whole = at not in found or found[at].numel() < each.numel()
            if whole and name.rpartition(".")[2].startswith("running_"):
                found[at] = each
    return list(found.values())


def _names(losses: Named, penalties: Named) -> tuple[str, ...]:
    return (*losses, *(f"penalty {name}" for name in penalties))


def _gradients(penalties: Named, leaves: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the leaves that penalties depend on, with the gradients of their sum."""
    total = torch.stack(list(penalties.values())).sum()
    found = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    return [(leaf, each) for leaf, each in zip(leaves, found, strict=True) if each is not None]


class CompiledStep:
    """The same step as `EagerStep`, in one graph, for batches of one size.

    The state is that of the run's optimiser of torch, which an eager step (of the last, ragged
    batch) and a checkpoint see too. The first call compiles, some 10 seconds.
    """

    def __init__(self, parts: StepParts, training: Training) -> None:
        ranker, balance, dense = parts.ranker, parts.balance, parts.dense
        if not isinstance(balance, ScalarBalance):
            raise ConfigError(
                "compile = true needs a balance that is one scalar function of the losses, got "
                f"{type(training.balance).__name__}: leave compile out, or use one of losses "
                "alone, such as sum"
            )
        if type(training.dense) not in (Adam, AdamW):
            raise ConfigError(
                "compile = true needs Adam or AdamW for the dense part, got "
                f"{type(training.dense).__name__}: leave compile out"
            )
        if parts.supervision.schema.ranked:
            raise ConfigError(
                "compile = true needs batches of one size, and those of whole requests, which a "
                "ranking loss needs, differ: leave compile out"
            )
        self.parts, self._balance = parts, balance
        self._decoupled = isinstance(training.dense, AdamW)
        self.names: tuple[str, ...] = ()
        groups = dense.param_groups
        self._groups = [group for group in groups for _ in group["params"]]
        self._parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        updated = [*ranker.parts.values(), balance]
        self._buffers = [buffer for each in updated for buffer in each.buffers()]
        self._moves = [True] * len(self._parameters)
        self._lr, self._lr_value = torch.tensor(0.0, dtype=torch.float64), 0.0
        # Whether batches have margins, weights and extras.
        self._given: tuple[bool, ...] = (False, False, False)
        self._graph: Graph | None = None
        self._state: list[Tensor] | None = None

    def __call__(self, x: Tensor, margin: Tensor | None, batch: Tensors, lr: float) -> Stepped:
        """Step on a batch; x is (B, W), the margins of first stages (B, T)."""
        optional = margin, batch.weight, batch.extras
        given = [x, batch.labels, *(each for each in optional if each is not None)]
        self._given = tuple(each is not None for each in optional)
        if self._graph is None:
            self._graph = self._built(given)
        if self._state is None:
            self._state = self._bound()
        if lr != self._lr_value:
            self._lr.fill_(lr)
            self._lr_value = lr
        with torch.no_grad():
            found = self._graph(*given, self._lr, *self._state)
        self.parts.mark("compiled step")
        return Stepped(*found)

    def rebind(self) -> None:
        """Look up the optimiser's state again: `load_state_dict` puts other tensors there."""
        self._state = None

    def _bound(self) -> list[Tensor]:
        """Return the tensors that the graph updates; all are those of the modules and of Adam."""
        steps = torch.zeros(len(self._parameters), device=self._lr.device)
        first, second = [], []
        for index, parameter in enumerate(self._parameters):
            state = dict(self.parts.dense.state.get(parameter) or {})
            steps[index] = state.get("step", 0.0)
            # One tensor of all counts, of which Adam has views.
            state["step"] = steps[index]
            for key, kept in (("exp_avg", first), ("exp_avg_sq", second)):
                if key not in state:
                    state[key] = torch.zeros_like(parameter)
                kept.append(state[key])
            if self._moves[index]:  # as in torch, a parameter without gradient has no state
                self.parts.dense.state[parameter] = state
        weights = [parameter.detach() for parameter in self._parameters]
        return [steps, *weights, *first, *second, *self._buffers]

    def _built(self, batch: list[Tensor]) -> Graph:
        """Trace and compile, on copies: nothing of the run moves, its random numbers included."""
        logger.info("compiling the step of %d rows", len(batch[0]))
        device = batch[0].device
        self._lr = self._lr.to(device)
        steps = torch.zeros(len(self._parameters), device=device)
        weights = [parameter.detach().clone() for parameter in self._parameters]
        moments = [torch.zeros_like(weight) for weight in [*weights, *weights]]
        buffers = [buffer.clone() for buffer in self._buffers]
        inputs = [*batch, torch.ones_like(self._lr), steps, *weights, *moments, *buffers]
        devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
        try:
            with (
                torch.random.fork_rng(devices, device_type=kind),
                warnings.catch_warnings(action="ignore"),  # of the compiler, about itself
                torch.no_grad(),
            ):
                graph = compiled(make_fx(self._step)(*inputs))
                graph(*inputs)
        except (RuntimeError, OSError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            raise TrainingError(
                f"the step cannot be compiled here: {reason}. torch.compile needs a C++ compiler "
                "(such as gcc) and a network whose operations do not depend on the values of x; "
                "compile = false trains without"
            ) from error
        return graph

    def _step(self, *tensors: Tensor) -> Stepped:
        """The whole step as a function of tensors, some of which it updates: what is traced."""
        count, end = len(self._parameters), len(tensors) - len(self._buffers)
        *batch, lr, steps = tensors[: end - 3 * count]
        weights, first, second = (tensors[end - i * count :][:count] for i in (3, 2, 1))
        buffers = tensors[end:]
        with torch.enable_grad():
            x, *leaves = (each.detach().requires_grad_() for each in (batch[0], *weights))
            stands_for = dict(
                zip(map(id, [*self._parameters, *self._buffers]), [*leaves, *buffers], strict=True)
            )
            ranker, supervision = self.parts.ranker, self.parts.supervision
            with standing_in(ranker, stands_for), standing_in(self._balance, stands_for):
                more = iter(batch[2:])
                margin, weight, extras = (next(more) if given else None for given in self._given)
                scores = ranker(x, margin)
                losses, rows = supervision.losses(scores.logits, batch[1], weight, extras)
                total = self._balance.total(losses)
            if scores.penalties:
                total = total + torch.stack(list(scores.penalties.values())).sum()
            of_x, *gradients = torch.autograd.grad(total, [x, *leaves], allow_unused=True)
        self.names = _names(losses, scores.penalties)
        self._moves = [gradient is not None for gradient in gradients]
        steps.add_(1)
        taken = steps.double()
        for index, (weight, gradient, m, v) in enumerate(
            zip(weights, gradients, first, second, strict=True)
        ):
            if gradient is not None:
                group = self._groups[index]
                adam(weight, gradient, m, v, taken[index], lr, group, decoupled=self._decoupled)
        of_x = torch.zeros_like(x) if of_x is None else of_x
        return Stepped.of(of_x, losses, scores.penalties, rows)


def adam(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    lr: Tensor,
    group: Mapping[str, Any],
    *,
    decoupled: bool,
) -> None:
    """Update a parameter and its moments in place, as `torch.optim.Adam` does, or `AdamW`.

    `first` and `second` are the moving means of gradients and of their squares; the step, counted
    from 1, and lr are float64 (). A group has betas, eps and weight_decay.

    Reference:
        Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019, algorithm 2, for
        decoupled decay.
    """
    beta1, beta2 = group["betas"]
    if group["weight_decay"] and decoupled:
        weight.mul_((1 - lr * group["weight_decay"]).float())
    elif group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * weight
    size = (lr / (1 - beta1**step)).float()
    correction = (1 - beta2**step).sqrt().float()
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).add_((1 - beta2) * gradient * gradient)
    weight.sub_(size * first / (second.sqrt() / correction + group["eps"]))


def compiled(graph: torch.fx.GraphModule) -> Graph:
    """Return a traced step compiled for the shapes that it was traced with."""
    return torch.compile(graph, dynamic=False, fullgraph=True)


@contextmanager
def standing_in(module: nn.Module, tensors: Mapping[int, Tensor]) -> Generator[None]:
    """Let tensors stand in for a module's parameters and buffers, given by identity.

    `torch.func.functional_call` goes by name, and a task may be called `apply`, as a method is.
    """
    swapped: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for each in module.modules():
            for kept in (vars(each)["_parameters"], vars(each)["_buffers"]):
                for name, tensor in kept.items():
                    if id(tensor) in tensors:
                        swapped.append((kept, name, tensor))
                        kept[name] = tensors[id(tensor)]
        yield
    finally:
        for kept, name, tensor in swapped:
            kept[name] = tensor
