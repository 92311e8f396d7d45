"""The loop: a generator of Progress that branches on no model's and no task's type.

Bar, run log, checkpoints and early stopping only consume it; which epoch is the best is its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import chain
from math import ceil, isfinite
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polyrank.balance import BalanceTerm
from polyrank.data.table import Batch, Table
from polyrank.errors import TrainingError
from polyrank.metrics.registry import direction
from polyrank.metrics.scorecard import scorecard
from polyrank.models.expert_use import ExpertUse, experts_of
from polyrank.models.outputs import bag_tensors, logits_of, outputs, tensors
from polyrank.models.ranker import Ranker
from polyrank.objective.kinds import KINDS
from polyrank.objective.losses import Supervision
from polyrank.terms import DEFAULT_METRIC, populations
from polyrank.train.compiled import CompiledStep
from polyrank.train.optim import load_optimizer_state, optimizer_state, parameter_groups
from polyrank.train.prefetch import ahead
from polyrank.train.profile import Stopwatch
from polyrank.train.progress import REMEDY, Progress, Tally
from polyrank.train.state import Position, named, part
from polyrank.train.step import EagerStep
from polyrank.train.training import Training

REPORT_STEPS = 50
PREFETCH_ROWS = 16384  # rows of a batch from which a thread gathers the next ones
# (validation logits, validation figures) → what is compared between epochs, lower being better
Judge = Callable[[Mapping[str, Tensor], Mapping[str, float]], float]


class Trainer:
    """Learns a ranker's weights from tables.

    Args:
        ranker: on its device.
        training: how.
        supervision: the terms, with their statistics on the training rows.
        train: training rows.
        valid: validation rows, or None.
        seed: of shuffling, id dropout and dropout.
        judge: what tells a better epoch, in place of `training.stop`.
        stopwatch: told the end of each part of each step.

    Raises:
        ConfigError: `compile` with what one graph cannot do.
    """

    def __init__(
        self,
        ranker: Ranker,
        training: Training,
        supervision: Supervision,
        *,
        train: Table,
        valid: Table | None,
        seed: int,
        judge: Judge | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self.judge = judge
        self.ranker, self.training, self.supervision = ranker, training, supervision
        self.train, self.valid, self.seed = train, valid, seed
        self.balance = training.balance.build(balance_terms(supervision)).to(training.device)
        groups = parameter_groups(
            ranker.dense_parameters(), list(self.balance.parameters()), training.dense.weight_decay
        )
        rows = training.embeddings
        # Filled in by Training, which knows whom they inherit from.
        assert training.dense.lr is not None
        assert rows.lr is not None
        assert rows.l2 is not None
        self.dense_lr, self.embedding_lr = training.dense.lr, rows.lr
        self.dense = training.dense.build(groups, self.dense_lr)
        self.embeddings = rows.build(ranker.embed, rows.l2)
        self._stopwatch, self._lap = stopwatch, _no_lap if stopwatch is None else stopwatch.lap
        parts = ranker, supervision, self.balance, self.dense, self._lap
        self._eager = EagerStep(*parts)
        self._compiled = CompiledStep.checked(training, *parts) if training.compile else None
        self._names: tuple[str, ...] = ()
        self._x: Tensor | None = None
        self._steps_of_run = training.epochs * self.steps
        self.position = Position()
        self.best = _copied(ranker.state_dict())

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return ceil(len(self.train) / self.training.batch_size)

    def run(self) -> Iterator[Progress]:
        """Train all epochs that are left, from wherever the position is.

        Raises:
            TrainingError: a loss, a weight or a validation figure that is not finite.
        """
        while self.position.epoch < self.training.epochs:
            yield from self._epoch(self.position.epoch + 1)

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that a later run needs to go on to the same bits."""
        return {
            **named("model", self.ranker.state_dict()),
            **named("best", self.best),
            **named("embeddings", self.embeddings.state()),
            **named("dense", optimizer_state(self.dense)),
            **named("balance", self.balance.state_dict()),
        }

    def load(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """Go to a position with the state that was saved there."""
        self.position = position
        self.ranker.load_state_dict(part("model", tensors))
        self.best = part("best", tensors)
        self.embeddings.load(part("embeddings", tensors))
        load_optimizer_state(self.dense, part("dense", tensors))
        if self._compiled is not None:
            self._compiled.rebind()
        self.balance.load_state_dict(part("balance", tensors))

    def keep_best(self) -> None:
        """Put the best epoch's weights into the ranker."""
        self.ranker.load_state_dict(self.best)

    def experts(self) -> tuple[ExpertUse, ...]:
        """Return how the gates use the experts now, on validation rows or, without, training rows.

        Empty where the trunk mixes nothing.
        """
        table = self.train if self.valid is None else self.valid
        return experts_of(self.ranker, table, self.training.device)

    def _epoch(self, epoch: int) -> Iterator[Progress]:
        # Dropout of hidden units draws from torch's generator: seeded here, an epoch that is
        # resumed draws what it would have drawn.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        self.ranker.train()
        tally = Tally([term.name for term in self.supervision.schema.objective])
        started, rows, step, before = perf_counter(), 0, 0, (epoch - 1) * self.steps - 1
        with closing(self._blocks(epoch)) as blocks:
            self._lap("")
            for step, batch in enumerate(chain.from_iterable(blocks), start=1):
                self._lap("load")
                tally.add(*self._step(batch, before + step))
                rows += len(batch)
                if step % REPORT_STEPS == 0 and step < self.steps:
                    tally.flush(self._names, epoch, step)
                    yield self._progress("step", epoch, step, rows, perf_counter() - started, tally)
                    self._lap("")
        tally.flush(self._names, epoch, step)
        seconds = perf_counter() - started
        logits = self._finite_logits(epoch, step)
        valid = self._validate(logits, epoch) if self.valid is not None else {}
        judge = self.judge if self.valid is not None else None
        best = self._advance(epoch, judge(logits, valid) if judge else self._value(valid))
        progress = replace(
            self._progress("epoch", epoch, step, rows, seconds, tally),
            valid=valid,
            best=best,
            experts={
                name: value for each in self.experts() for name, value in each.figures().items()
            },
        )
        self.position = replace(self.position, history=(*self.position.history, progress.record()))
        yield progress

    def _blocks(self, epoch: int) -> Generator[list[Batch]]:
        """Return the epoch's batches by the block, the next gathered meanwhile where that pays.

        That is for large batches, and where torch leaves the thread a core. On 2 cores of a shared
        machine, with 1 thread of torch, epochs were 1.01, 0.98 and 1.22 (MMoE) and 1.01, 0.99 and
        0.99 (ESMM) times as fast with it at 1024, 4096 and 16384 rows.
        """
        blocks = self.train.blocks(
            self.ranker.layout,
            self.training.batch_size,
            shuffle=True,
            seed=self.seed,
            epoch=epoch,
            unseen_rate=self.training.unseen_rate,
        )
        idle = (os.cpu_count() or 1) > self.training.threads
        return ahead(blocks) if idle and self.training.batch_size >= PREFETCH_ROWS else blocks

    def _step(self, batch: Batch, done: int) -> tuple[Tensor, Tensor]:
        """Learn from a batch; return the losses and the rows of each term."""
        factor = self.training.schedule.factor(done, self._steps_of_run)
        ids, dense, labels, weight = tensors(batch, self.training.device)
        bags = bag_tensors(batch, self.training.device)
        self._x = x = self.ranker.embed.look_up(ids, dense, bags, self._x)
        self._lap("gather")
        full = len(batch) == self.training.batch_size
        step = self._compiled if self._compiled is not None and full else self._eager
        gradient, losses, rows = step(x, labels, weight, self.dense_lr * factor)
        self._names = step.names
        self.embeddings.step(ids, gradient, self.embedding_lr * factor, bags)
        self._lap("embedding step")
        if self._stopwatch is not None:
            self._stopwatch.count(len(batch))
        return losses, rows

    def _finite_logits(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the logits of the validation rows, or of some training rows where there are none.

        Raises:
            TrainingError: one is not finite: the last step broke weights that no loss has seen.
        """
        device = self.training.device
        if self.valid is not None:
            logits = logits_of(self.ranker, self.valid, device)
        else:
            logits = logits_of(self.ranker, self.train, device, chunks=1)
        for task, each in logits.items():
            if not torch.isfinite(each).all():
                raise TrainingError(
                    f"the logits of {task!r} are not finite after epoch {epoch}, step {step}: "
                    f"{REMEDY}"
                )
        return logits

    def _progress(
        self,
        event: Literal["step", "epoch"],
        epoch: int,
        step: int,
        rows: int,
        seconds: float,
        tally: Tally,
    ) -> Progress:
        return Progress(
            event, epoch, self.training.epochs, step, self.steps, rows, seconds,
            tally.mean(), tally.empty(),
        )  # fmt: skip

    def _validate(self, logits: Mapping[str, Tensor], epoch: int) -> dict[str, float]:
        """Return validation losses and metrics by name."""
        assert self.valid is not None
        schema = self.supervision.schema
        labels = torch.from_numpy(self.valid.labels)
        weight = None if self.valid.weight is None else torch.from_numpy(self.valid.weight)
        sums = self.supervision.sums(logits, labels, weight)
        found = {
            f"{name} loss": float(each.total / each.weight)
            for name, each in sums.items()
            if each.weight > 0
        }
        weights = {term.name: term.weight for term in schema.objective}
        found["total loss"] = sum(
            weights[name] * found[f"{name} loss"] for name in weights if f"{name} loss" in found
        )
        for name, value in found.items():
            if not isfinite(value):
                raise TrainingError(f"validation {name} is {value} after epoch {epoch}: {REMEDY}")
        return found | self._metrics(self.valid, logits)

    def _metrics(self, table: Table, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Return each score's default metric and the one that early stopping watches."""
        schema, stop = self.supervision.schema, self.training.stop
        wanted = {each.name: {DEFAULT_METRIC[each.kind]} for each in populations(schema)}
        if stop is not None:
            wanted[stop.score].add(stop.metric)
        arrays = {name: each.numpy() for name, each in logits.items()}
        card = scorecard(
            schema,
            outputs(schema, arrays, self.supervision.scales),
            table.labels_by_task,
            split="valid",
            user=table.user,
            request=table.request,
            weight=table.weight,
            only=set().union(*wanted.values()),
        )
        return {
            f"{score} {metric}": card[score].value(metric)
            for score, metrics in wanted.items()
            for metric in sorted(metrics)
            if metric in card[score].metrics
        }

    def _advance(self, epoch: int, value: float | None) -> bool:
        """Move the position past an epoch, and keep its weights if it is the best."""
        best = self.position.best_value
        improved = value is None or best is None or value < best
        self.position = replace(self.position, epoch=epoch)
        if improved:
            self.position = replace(self.position, best_epoch=epoch, best_value=value)
            self.best = _copied(self.ranker.state_dict())
        return improved

    def _value(self, valid: Mapping[str, float]) -> float | None:
        """Return what is compared between epochs, lower being better; None without validation."""
        if self.valid is None:
            return None
        stop = self.training.stop
        if stop is None:
            return valid["total loss"]
        value = valid[f"{stop.score} {stop.metric}"]
        kind = next(
            each.kind for each in populations(self.supervision.schema) if each.name == stop.score
        )
        return -value if direction(kind, stop.metric) else value


def _no_lap(part: str) -> None:
    """Nobody looks at the time."""


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def balance_terms(supervision: Supervision) -> list[BalanceTerm]:
    """Return what a balance may know of each term."""
    return [
        BalanceTerm(
            name=term.name,
            weight=term.weight,
            constant_loss=KINDS[term.population.kind].constant_loss(
                term, supervision.statistics[term.name]
            ),
            exponent=KINDS[term.population.kind].balance_exponent,
        )
        for term in supervision.schema.objective
    ]
