"""Optimisers and schedules of torch, used exactly, in the engine's places for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.errors import ConfigError, did_you_mean
from polyrank.nn.embed import PackedEmbedder, TensorBag
from polyrank.train.loop import Trainer
from polyrank.train.optim import (
    Adam,
    EmbeddingOptimizer,
    LazyAdam,
    Schedule,
    load_optimizer_state,
    optimizer_state,
    set_lr,
)
from polyrank.train.row_engine import EmbeddingEngine, RowEngine, Visits

Options = Mapping[str, Any]
Optimizer = Callable[..., torch.optim.Optimizer]  # a class of torch.optim
DEFAULTS = {"lr": 1e-3, "weight_decay": 1e-5}
# Those of torch.optim.Adam, whatever the native defaults are; the rates are the run's.
_MOMENTS: Options = {"betas": (0.9, 0.999), "eps": 1e-8}
_ADAM: Options = {"lr": None, "weight_decay": 0.0, **_MOMENTS}
_ROWS: Options = {"lr": None, "l2": None, "prior": 0.0, "decay": 0.0, **_MOMENTS}
_UNSUPPORTED: Mapping[Any, str] = {
    torch.optim.LBFGS: "evaluates the loss several times a step",
    torch.optim.SparseAdam: "takes sparse gradients only",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)  # noqa: SLF001  the only common base


@dataclass(frozen=True, kw_only=True)
class ExactDense(Adam):
    """A torch optimiser of any class, for the dense part."""

    function: Optimizer = torch.optim.Adam
    options: Options = field(default_factory=dict)

    def build(self, groups: Sequence[dict], lr: float) -> torch.optim.Optimizer:
        """Return the optimiser; parameters of a balance are not decayed."""
        first, *others = [group["params"] for group in groups]
        undecayed = [{"params": each, "weight_decay": 0.0} for each in others]
        return self.function([{"params": first}, *undecayed], **self.options)


@dataclass(frozen=True, kw_only=True)
class ExactRows(EmbeddingOptimizer):
    """A torch optimiser of any class, on every row of every table at every step."""

    function: Optimizer = torch.optim.Adam
    options: Options = field(default_factory=dict)

    def build(
        self, embed: PackedEmbedder, l2: float, visits: Visits | None = None
    ) -> EmbeddingEngine:
        """Return the engine; without tables, one that does nothing."""
        if len(embed.pack):
            return ExactRowsEngine(self, embed)
        return LazyAdam(**_ROWS).build(embed, l2)


class ExactRowsEngine(EmbeddingEngine):
    """A torch optimiser over the packs."""

    def __init__(self, spec: ExactRows, embed: PackedEmbedder) -> None:
        self.embed = embed
        self.optimizer = spec.function(list(embed.pack), **spec.options)

    @torch.no_grad()
    def step(
        self, ids: Tensor, gradient: Tensor, lr: float, bags: Sequence[TensorBag] = ()
    ) -> None:
        pairs = self.embed.row_gradients(ids, gradient, bags)
        for pack, (rows, each) in zip(self.embed.pack, pairs, strict=True):
            pack.grad = torch.zeros_like(pack).index_add_(0, rows, each)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        return optimizer_state(self.optimizer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        load_optimizer_state(self.optimizer, state)


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """l1 · Σ|w| + l2 · Σw² of the embeddings and of the dense part without its norms."""

    embedding_l1: float = 0.0
    embedding_l2: float = 0.0
    dense_l1: float = 0.0
    dense_l2: float = 0.0

    @classmethod
    def of(cls, params: Mapping[str, float] | None) -> Penalty:
        params, where = params or {}, "regularization_params"
        spec.check_keys(params, [each.name for each in fields(cls)], where)
        return cls(**{key: spec.number(f"{where}: {key}", params[key], least=0) for key in params})

    def attach(self, model: nn.Module, trainer: Trainer) -> None:
        if self == Penalty():
            return

        def ids(*kinds: type[nn.Module]) -> set[int]:
            found = (module for module in model.modules() if isinstance(module, kinds))
            return {id(weight) for module in found for weight in module.parameters()}

        tables = ids(nn.Embedding, nn.EmbeddingBag, PackedEmbedder)
        spared = ids(*_NORMS) | {id(weight) for weight in trainer.balance.parameters()}

        @torch.no_grad()
        def pull(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            weights = (weight for group in optimizer.param_groups for weight in group["params"])
            for weight in weights:
                if id(weight) in spared:
                    continue
                rows = id(weight) in tables
                l1 = self.embedding_l1 if rows else self.dense_l1
                l2 = self.embedding_l2 if rows else self.dense_l2
                if l1 or l2:
                    added = l1 * weight.sign() + 2 * l2 * weight
                    weight.grad = added if weight.grad is None else weight.grad + added

        for optimizer in _torch_optimizers(trainer):
            optimizer.register_step_pre_hook(pull)


class EpochSchedule(Schedule):
    """A torch scheduler, or a constant rate, stepped after each epoch on a stand-in optimiser."""

    def __init__(
        self, optimizer: Optimizer, options: Options, function: Any, params: Options | None
    ) -> None:
        self.optimizer = optimizer([nn.Parameter(torch.zeros(1, 1))], **options)
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.scheduler = function(self.optimizer, **(params or {})) if function else None

    def factor(self, step: int, steps: int, improved: Sequence[bool] = ()) -> float:
        return float(self.optimizer.param_groups[0]["lr"]) / self.lr

    def step(self, loss: float | None, goodness: float | None) -> None:
        """End an epoch; a plateau is of the loss (mode "min") or of the score ("max")."""
        if self.scheduler is None:
            return
        self.optimizer.step()  # changes nothing; without it torch warns of the scheduler's step
        watched = ()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            watched = (loss if self.scheduler.mode == "min" else goodness,)
        if None in watched:
            message = "ReduceLROnPlateau needs validation rows: give fit a validation loader"
            raise ConfigError(message)
        self.scheduler.step(*watched)

    def follow(self, trainer: Trainer) -> None:
        """Pass on the momentum, which a cyclic scheduler changes as well."""
        if self.scheduler is None:
            return
        group, engine = self.optimizer.param_groups[0], trainer.embeddings
        moved = {key: group[key] for key in ("momentum", "betas") if key in group}
        for optimizer in _torch_optimizers(trainer):
            for each in optimizer.param_groups:
                each.update(moved)
        if isinstance(engine, RowEngine) and isinstance(engine.spec, LazyAdam) and "betas" in moved:
            engine.spec = replace(engine.spec, betas=tuple(moved["betas"]))


def _torch_optimizers(trainer: Trainer) -> list[torch.optim.Optimizer]:
    rows = trainer.embeddings
    return [trainer.dense, *([rows.optimizer] if isinstance(rows, ExactRowsEngine) else [])]


def chosen(
    function: Optimizer | None, params: Options | None, penalty: Penalty
) -> tuple[Adam, EmbeddingOptimizer, Optimizer, Options]:
    """Return the optimisers of the dense part and of the rows, and the torch class they stand for.

    Without a class, the engine's own Adam.
    """
    options: dict[str, Any] = dict(DEFAULTS if params is None else params)
    if function is not None:
        if function in _UNSUPPORTED:
            raise ConfigError(
                f"optimizer_fn {function.__name__} {_UNSUPPORTED[function]}, which this trainer "
                "does not support: leave optimizer_fn out, to update only the rows that a batch "
                "touches, or use Adam"
            )
        dense = ExactDense(**_ADAM, function=function, options=options)
        return dense, _exact_rows(function, options), function, options
    known = ["lr", "weight_decay", "betas", "eps"]
    for key in options:
        if key not in known:
            raise ConfigError(
                f"optimizer_params: unknown key {key!r}{did_you_mean(str(key), known)}; other "
                "options of torch.optim.Adam need optimizer_fn=torch.optim.Adam"
            )
    moments = {key: options[key] for key in ("betas", "eps") if key in options}
    exact = _exact_rows(torch.optim.Adam, options)
    every_row = penalty.embedding_l1 or penalty.embedding_l2  # a penalty moves them all
    rows = exact if every_row else LazyAdam(**{**_ROWS, **moments})
    return Adam(**{**_ADAM, **options}), rows, torch.optim.Adam, options


def _exact_rows(function: Optimizer, options: Options) -> ExactRows:
    return ExactRows(lr=None, l2=None, function=function, options=options)
