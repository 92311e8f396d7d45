"""The loop: a generator of Progress that branches on no model's and no task's type.

Bar, run log, checkpoints and early stopping only consume it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from polyrank.balance import BalanceTerm
from polyrank.data.table import Batch, Table
from polyrank.errors import TrainingError
from polyrank.metrics.registry import direction
from polyrank.metrics.scorecard import scorecard
from polyrank.models.outputs import logits_of, outputs, tensors
from polyrank.models.ranker import Ranker
from polyrank.objective.kinds import KINDS
from polyrank.objective.losses import Supervision
from polyrank.terms import METRICS, populations
from polyrank.train.optim import load_optimizer_state, optimizer_state, parameter_groups, set_lr
from polyrank.train.state import Position, named, part
from polyrank.train.training import Training

REPORT_STEPS = 50


@dataclass(frozen=True)
class Progress:
    """What the loop tells while it runs.

    Args:
        event: "step" now and then within an epoch, "epoch" after each.
        epoch: from 1.
        epochs: of the run.
        step: steps done in this epoch.
        steps: of an epoch.
        rows: rows seen in this epoch.
        seconds: spent in this epoch's steps.
        losses: mean training loss of each term in this epoch.
        empty: batches of this epoch without a row of each term.
        valid: after an epoch, validation losses (`click @ all loss`, `total loss`) and metrics
            (`click @ all auc`).
        best: after an epoch, whether it is the best so far.
    """

    event: Literal["step", "epoch"]
    epoch: int
    epochs: int
    step: int
    steps: int
    rows: int
    seconds: float
    losses: Mapping[str, float]
    empty: Mapping[str, int]
    valid: Mapping[str, float] = field(default_factory=dict)
    best: bool = False

    @property
    def rows_per_second(self) -> float:
        """Training speed in this epoch."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """Return the epoch as one flat line of the history."""
        return {
            "epoch": self.epoch,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second, 1),
            **{f"train {term} loss": loss for term, loss in self.losses.items()},
            **{f"train {term} empty batches": count for term, count in self.empty.items()},
            **{f"valid {name}": value for name, value in self.valid.items()},
            "best": self.best,
        }


class Trainer:
    """Learns a ranker's weights from tables.

    Args:
        ranker: on its device.
        training: how.
        supervision: the terms, with their statistics on the training rows.
        train: training rows.
        valid: validation rows, or None.
        seed: of shuffling, id dropout and dropout.
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
    ) -> None:
        self.ranker, self.training, self.supervision = ranker, training, supervision
        self.train, self.valid, self.seed = train, valid, seed
        self.terms = [term.name for term in supervision.schema.objective]
        self.balance = training.balance.build(_balance_terms(supervision)).to(training.device)
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
        self.position = Position()
        self.best = _copied(ranker.state_dict())

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return ceil(len(self.train) / self.training.batch_size)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or early stopping has run out of patience."""
        stop = self.training.stop
        out_of_patience = stop is not None and self.position.stale_epochs >= stop.patience
        return self.position.epoch >= self.training.epochs or out_of_patience

    def run(self) -> Iterator[Progress]:
        """Train until finished, from wherever the position is."""
        while not self.finished:
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
        self.balance.load_state_dict(part("balance", tensors))

    def keep_best(self) -> None:
        """Put the best epoch's weights into the ranker."""
        self.ranker.load_state_dict(self.best)

    def _epoch(self, epoch: int) -> Iterator[Progress]:
        # Dropout of hidden units draws from torch's generator: seeded here, an epoch that is
        # resumed draws what it would have drawn.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]))
        self.ranker.train()
        tally = _Tally(self.terms, self.training.device)
        batches = self.train.batches(
            self.ranker.layout,
            self.training.batch_size,
            shuffle=True,
            seed=self.seed,
            epoch=epoch,
            unseen_rate=self.training.unseen_rate,
        )
        started, rows, step = perf_counter(), 0, 0
        for step, batch in enumerate(batches, start=1):
            tally.add(*self._step(batch, (epoch - 1) * self.steps + step - 1))
            rows += len(batch.labels)
            if step % REPORT_STEPS == 0 and step < self.steps:
                tally.flush(epoch, step)
                yield self._progress("step", epoch, step, rows, perf_counter() - started, tally)
        tally.flush(epoch, step)
        seconds = perf_counter() - started
        valid = self._validate()
        best = self._advance(epoch, valid)
        progress = replace(
            self._progress("epoch", epoch, step, rows, seconds, tally), valid=valid, best=best
        )
        self.position = replace(self.position, history=(*self.position.history, progress.record()))
        yield progress

    def _step(self, batch: Batch, done: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        factor = self.training.schedule.factor(done, self.training.epochs * self.steps)
        ids, dense, labels, weight = tensors(batch, self.training.device)
        with torch.no_grad():
            x = self.ranker.embed(ids, dense)
        x.requires_grad_()
        scores = self.ranker(x)
        losses, rows = self.supervision.losses(scores.logits, labels, weight)
        self.dense.zero_grad(set_to_none=True)
        for penalty in scores.penalties.values():
            penalty.backward(retain_graph=True)
        self.balance.backward(losses, [x, *self.ranker.shared_parameters()])
        set_lr(self.dense, self.dense_lr * factor)
        self.dense.step()
        assert x.grad is not None
        self.embeddings.step(ids, x.grad, self.embedding_lr * factor)
        return losses, rows

    def _progress(
        self,
        event: Literal["step", "epoch"],
        epoch: int,
        step: int,
        rows: int,
        seconds: float,
        tally: _Tally,
    ) -> Progress:
        return Progress(
            event, epoch, self.training.epochs, step, self.steps, rows, seconds,
            tally.mean(), tally.empty(),
        )  # fmt: skip

    def _validate(self) -> dict[str, float]:
        """Return validation losses and metrics by name; empty without validation rows."""
        if self.valid is None:
            return {}
        schema, device = self.supervision.schema, self.training.device
        logits = logits_of(self.ranker, self.valid, device)
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
        return found | self._metrics(self.valid, logits)

    def _metrics(self, table: Table, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Return each score's default metric and the one that early stopping watches."""
        schema, stop = self.supervision.schema, self.training.stop
        wanted = {each.name: {METRICS[each.kind]} for each in populations(schema)}
        if stop is not None:
            wanted[stop.score].add(stop.metric)
        arrays = {name: each.numpy() for name, each in logits.items()}
        card = scorecard(
            schema,
            outputs(schema, arrays, self.supervision.scales),
            table.labels_by_task,
            split="valid",
            user=table.user if stop is not None and stop.metric == "gauc" else None,
            weight=table.weight,
        )
        return {
            f"{score} {metric}": card[score].value(metric)
            for score, metrics in wanted.items()
            for metric in sorted(metrics)
            if metric in card[score].metrics
        }

    def _advance(self, epoch: int, valid: Mapping[str, float]) -> bool:
        """Move the position past an epoch, and keep its weights if it is the best."""
        value = self._value(valid)
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


class _Tally:
    """Sums the losses of an epoch; reads them from the device only now and then."""

    def __init__(self, terms: list[str], device: str) -> None:
        self.terms = terms
        self.losses = torch.zeros(REPORT_STEPS, len(terms), device=device)
        self.rows = torch.zeros(REPORT_STEPS, len(terms), device=device)
        self.pending, self.steps = 0, 0
        self.total = np.zeros(len(terms))
        self.empty_batches = np.zeros(len(terms), dtype=np.int64)

    def add(self, losses: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        self.losses[self.pending] = torch.stack([losses[term].detach() for term in self.terms])
        self.rows[self.pending] = torch.stack([rows[term] for term in self.terms])
        self.pending += 1

    def flush(self, epoch: int, step: int) -> None:
        """Take in what is pending.

        Raises:
            TrainingError: a loss that is not finite.
        """
        losses = self.losses[: self.pending].cpu().double().numpy()
        for row, column in np.argwhere(~np.isfinite(losses)):
            raise TrainingError(
                f"the loss of {self.terms[column]!r} is {losses[row, column]} at epoch {epoch}, "
                f"step {step - self.pending + 1 + row}: lower lr, or look for extreme values in "
                "the dense features and targets. The last checkpoint, if any, is kept"
            )
        self.total += losses.sum(axis=0)
        self.empty_batches += (self.rows[: self.pending] == 0).sum(0).cpu().numpy()
        self.steps += self.pending
        self.pending = 0

    def mean(self) -> dict[str, float]:
        return dict(zip(self.terms, (self.total / max(self.steps, 1)).tolist(), strict=True))

    def empty(self) -> dict[str, int]:
        return dict(zip(self.terms, self.empty_batches.tolist(), strict=True))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _balance_terms(supervision: Supervision) -> list[BalanceTerm]:
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
