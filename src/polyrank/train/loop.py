"""The loop: a generator of Progress that branches on no model's and no task's type.

Bar, run log and checkpoints only consume it; which epoch is the best, and the last, is its own.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from math import isfinite
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from polyrank.balance import BalanceTerm
from polyrank.balance.gradients import cosines
from polyrank.data.requests import with_requests
from polyrank.data.shares import Share
from polyrank.data.statistics import label_groups, term_statistics
from polyrank.data.table import Batch, Table
from polyrank.data.windows import part
from polyrank.debias import PropensityUse, PropensityWeighted
from polyrank.errors import ConfigError, TrainingError
from polyrank.metrics.registry import direction
from polyrank.metrics.scorecard import scorecard
from polyrank.models.expert_use import ExpertUse, experts_of
from polyrank.models.outputs import Tensors, logits_of, margins_of, outputs
from polyrank.models.ranker import Ranker
from polyrank.objective.likelihood import by_columns, named_extras
from polyrank.objective.losses import Supervision
from polyrank.ranks import ALONE, Ranks
from polyrank.stages.first import FirstStagesLearner
from polyrank.stages.stage import StageRun
from polyrank.tasks import Task
from polyrank.terms import NORMALIZED, own_population, own_terms, populations
from polyrank.train.heads import base_rates
from polyrank.train.optim import load_optimizer_state, optimizer_state, parameter_groups
from polyrank.train.progress import (
    REMEDY,
    Event,
    Profile,
    Progress,
    Tally,
    own_best_epochs,
)
from polyrank.train.row_engine import Visits
from polyrank.train.step import CompiledStep, EagerStep, StepParts, draws_of
from polyrank.train.training import Training

logger = logging.getLogger(__name__)

REPORT_STEPS = 50
# Of a network's answer, as added to the margin of a first stage; 1 first, for it wins a tie.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# Of an epoch, at which gradients of terms are compared: no more, and one in as many steps.
MEASURED_STEPS = 8
MEASURED_EVERY = 16
PREFETCH_ROWS = 16384  # rows of a batch from which a thread gathers the next ones
# (validation logits, losses and metrics) → what is compared between epochs, lower being better
Monitor = Callable[[Mapping[str, Tensor], Mapping[str, float]], float]


@dataclass(frozen=True)
class Position:
    """Where a run is: after an epoch, or at a checkpoint within the next one."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done of the epoch after these
    streams: int = 1  # in which that epoch was begun: as many as there were processes
    rows: int = 0  # rows of these steps
    seconds: float = 0.0  # that they took
    exchanged: int = 0  # bytes that the first process put into exchanges in them
    best_epoch: int = 0  # whose weights are kept; 0 before the first
    best_value: float | None = None  # oriented so that lower is better
    history: tuple[dict[str, Any], ...] = ()  # one record per epoch

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best."""
        return self.epoch - self.best_epoch

    @property
    def own_best_epochs(self) -> dict[str, int]:
        """In which epoch each head was best on its own validation rows: {"buy|click": 3}."""
        return own_best_epochs(self.history)


class Trainer:
    """Trains a ranker, which is on its device, on tables.

    `valid` chooses the best epoch, else it is the last; `monitor` stands in for `training.stop`.
    The training rows are the share `new` of all rows that the ranker will have learned: below 1, it
    has learned others.
    Several processes have a trainer each, of the same ranker and tables: a step is of the joined
    batch of all their batches, and afterwards all have the same weights.
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
        monitor: Monitor | None = None,
        profile: Profile | None = None,
        ranks: Ranks = ALONE,
        new: float = 1.0,
    ) -> None:
        self.ranks = ranks
        self.monitor = monitor
        if supervision.schema.ranked:
            train = with_requests(train, "train")
            valid = None if valid is None else with_requests(valid, "valid")
        self.ranker, self.training, self.supervision = ranker, training, supervision
        self.train, self.valid, self.seed = train, valid, seed
        self.epochs, self.batch_size = training.pace(len(train), ranks.count)
        for name, found in supervision.requests.items():
            if found.longest > self.batch_size:
                raise ConfigError(
                    f"{name!r}: the longest request has {found.longest:,} rows, and a batch "
                    f"{self.batch_size:,}, which no request may be cut by: raise batch_size"
                )
        self.balance = training.balance.build(balance_terms(supervision)).to(training.device)
        if ranks.several and not self.balance.by_ranks:
            raise ConfigError(
                f"the balance {type(training.balance).__name__} is of a single process: choose "
                "another, or train in one process"
            )
        self.balance.ranks, self.balance.seed = ranks, seed
        groups = parameter_groups(
            ranker.dense_parameters(), list(self.balance.parameters()), training.dense.weight_decay
        )
        rows = training.embeddings
        # Training has filled in what they inherit.
        assert training.dense.lr is not None
        assert rows.lr is not None
        assert rows.l2 is not None
        self.dense_lr, self.embedding_lr = training.dense.lr, rows.lr
        self.dense = training.dense.build(groups, self.dense_lr)
        visits = Visits(train, ranker.layout, self.batch_size, training.unseen_rate, ranks)
        self.embeddings = rows.build(ranker.embed, rows.l2, visits)
        self._profile, self._mark = profile, profile.mark if profile else lambda _: None
        parts = StepParts(ranker, supervision, self.balance, self.dense, self._mark, ranks)
        self._eager = EagerStep(parts)
        self._compiled = CompiledStep(parts, training) if training.compile else None
        self._names: tuple[str, ...] = ()
        self._x: Tensor | None = None
        self._improved: list[bool] = []
        self._within: dict[str, Tensor] = {}  # what a position within an epoch needs beside
        self.position = Position()
        self.first = None
        self._new = new
        if ranker.first is not None:
            self._shares_before = ranker.first.share.tolist()
            run = StageRun(
                train=train, valid=valid, likelihoods=supervision.likelihoods,
                rates=base_rates(train, supervision.sampling), batch_size=self.batch_size,
                threads=training.threads,
                sampling=supervision.sampling, seed=seed, steps=self.steps,
                unseen_rate=training.unseen_rate, ranks=ranks,
            )  # fmt: skip
            self.first = FirstStagesLearner.of(ranker.first, ranker.layout, run)
        self.best = _copied(ranker.state_dict())

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self._share.steps(len(self.train), self.batch_size)

    @property
    def _share(self) -> Share:
        """What this process reads of an epoch, which may have been begun by more or by fewer."""
        streams = self.position.streams if self.position.step else self.ranks.count
        return Share.of(self.ranks.rank, self.ranks.count, streams)

    def run(self) -> Iterator[Progress]:
        """Train the epochs that are left at the position, until early stopping loses patience."""
        self._start()
        stop = self.training.stop
        while self.position.epoch < self.epochs:
            if stop is not None and self.position.stale_epochs >= stop.patience:
                return
            yield from self._epoch(self.position.epoch + 1)

    def _start(self) -> None:
        """Fit first stages that are fitted before the first step, and choose among several."""
        if self.first is None:
            return
        if not self.position.epoch:
            self.first.start()
            if self.valid is not None and len(self.first.learners) > 1:
                self.first.choose(self._alone(self.valid))
        if self.valid is not None:
            self.valid = self.ranker.told(self.valid)
            self._margins = margins_of(self.ranker, self.valid, self.training.device)

    def _shared(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose how much of the network's answer each head adds to its margin, and add that.

        A head with few labels may learn more from its first stage alone: the network's answer, of
        the same layers, would be noise. The share is the one of `SHARES` with the least loss on
        validation rows of the head, and 0 where these are too few to tell. It is 1 without
        validation, and for a task with a positive weight, whose network is inflated on purpose, or
        one that ranks, whose network learns another loss: the plain one would take that out again.

        A warm start has few validation rows of a day, whose choice is by chance: its share is the
        mean of the choices of all runs, by their rows, and stays where the day's cannot tell.
        """
        if self.first is None or self.valid is None:
            return logits
        few = _untold(self.valid)
        rows, stages = _labels(self.valid), self.first.stages
        tasks = self.supervision.schema.by_name
        found = {}

        def mixed(name: str, share: float) -> Tensor:
            return _mixed(self._margins[name], logits[name], share)

        for share in SHARES:
            some = {name: mixed(name, share) for name in logits if name in self._margins}
            found[share] = self.supervision.own_losses(logits | some, *rows)
        chosen = dict(logits)
        for at, head in enumerate(stages.heads):
            if tasks[head].positive_weight != 1 or tasks[head].ranking is not None:
                continue
            known = {share: losses[head] for share, losses in found.items() if head in losses}
            before = self._shares_before[at]
            best = before if self._new < 1 else 0.0
            if head not in few:
                best = before + self._new * (min(known, key=lambda share: known[share]) - before)
            stages.share[at] = best
            chosen[head] = mixed(head, best)
        return chosen

    def _alone(self, valid: Table) -> dict[str, dict[str, float]]:
        """Return the losses of each first stage without a network: {stage: {head: loss}}."""
        assert self.first is not None
        losses = {}
        for name, learner in self.first.learners.items():
            stage = self.first.stages.stage[name]
            heads = stage.heads
            logits = {
                head.name: torch.zeros(len(valid), head.outputs).squeeze(1)
                for head in self.supervision.schema.heads
            }
            for (head, output), each in zip(
                stage.outputs, learner.alone(valid).unbind(1), strict=True
            ):
                by_columns(logits[head])[:, output] = each
            found = self.supervision.own_losses(logits, *_labels(valid))
            losses[name] = {head: found[head] for head in heads if head in found}
            shown = ", ".join(f"{head} {loss:.4f}" for head, loss in losses[name].items())
            logger.info("first stage %s alone, normalised validation losses: %s", name, shown)
        return losses

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that a later run needs to continue to the same bits."""
        owned = {
            "model": self.ranker.state_dict(),
            "best": self.best,
            "embeddings": self.embeddings.state(),
            "dense": optimizer_state(self.dense),
            "balance": self.balance.state_dict(),
            "first": {} if self.first is None else self.first.state(),
            "within": self._within,
        }
        return {f"{owner}.{name}": t for owner, each in owned.items() for name, t in each.items()}

    def held_rows(self) -> dict[str, int]:
        """Return the tensors of the state of which this process has a part, and all their rows."""
        if self.ranker.layout.held.ranks is None:
            return {}
        weights = self.ranker.held_rows()
        owned = {
            "model": weights,
            "best": weights,
            "embeddings": self.embeddings.held_rows(),
            "first": {} if self.first is None else self.first.held_rows(),
        }
        return {f"{owner}.{name}": n for owner, each in owned.items() for name, n in each.items()}

    def load(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a position with the state that was saved there."""
        owned: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            owner, name = key.split(".", 1)
            owned[owner][name] = tensor
        self.position, self.best = position, owned["best"]
        self.ranker.load_state_dict(owned["model"])
        self.embeddings.load(owned["embeddings"])
        load_optimizer_state(self.dense, owned["dense"])
        if self._compiled is not None:
            self._compiled.rebind()
        self.balance.load_state_dict(owned["balance"])
        if self.first is not None:
            self.first.load(owned["first"])
        self._within = owned["within"]

    def take_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state of the optimisers and of the balance from that of another run."""
        owned: dict[str, dict[str, Tensor]] = {"embeddings": {}, "dense": {}, "balance": {}}
        for key, tensor in tensors.items():
            owner, name = key.split(".", 1)
            if owner in owned:
                owned[owner][name] = tensor
        self.embeddings.load(owned["embeddings"])
        load_optimizer_state(self.dense, owned["dense"])
        if self._compiled is not None:
            self._compiled.rebind()
        self.balance.load_state_dict(owned["balance"])

    def keep_best(self) -> None:
        """Put the best epoch's weights into the ranker, and log what is wrong with its gates."""
        self.ranker.load_state_dict(self.best)
        for use in self.experts():
            for warning in use.warnings():
                logger.warning("%s", warning)
        for each in self.propensities():
            logger.info("%s", each)
            for warning in each.warnings():
                logger.warning("%s", warning)

    def experts(self) -> tuple[ExpertUse, ...]:
        """Return how the gates use the experts now, on validation rows or, without, training."""
        table = self.train if self.valid is None else self.valid
        return experts_of(self.ranker, table, self.training.device)

    def propensities(self, logits: Mapping[str, Tensor] | None = None) -> tuple[PropensityUse, ...]:
        """Return what the weights of debiased tasks are worth now, on the same rows.

        `logits` are of these rows, where they are known: of the validation rows, or of the first
        training rows.
        """
        if not any(isinstance(each.debias, PropensityWeighted) for each in self._tasks):
            return ()
        if logits is None:
            logits = self._known_logits()
        table = self.train if self.valid is None else self.valid
        labels, weight, _ = _labels(part(table, slice(0, len(next(iter(logits.values()))))))
        return self.supervision.propensities(logits, labels, weight)

    @property
    def _tasks(self) -> Sequence[Task]:
        return self.supervision.schema.tasks

    def _epoch(self, epoch: int) -> Iterator[Progress]:
        self.ranker.train()
        self._improved = [record["best"] for record in self.position.history]
        tally = self._begin(epoch)
        begun, before = self.position.step, (epoch - 1) * self.steps - 1
        step, rows, steps = begun, self.position.rows, self.steps
        share, table = self._share, self.train
        sent_before = self.ranks.exchanged - self.position.exchanged
        started = saved = perf_counter() - self.position.seconds

        def report(event: Event) -> Progress:
            losses, empty = tally.flush(self._names, epoch, step)
            done = step, steps, rows, perf_counter() - started
            sent = self.ranks.exchanged - sent_before
            return Progress(event, epoch, self.epochs, *done, losses, empty,
                            ranks=self.ranks.count, exchanged=sent)  # fmt: skip

        with closing(self._blocks(epoch, begun)) as blocks:
            self._mark("")
            for step, batch in enumerate(chain.from_iterable(blocks), start=begun + 1):
                self._mark("load")
                joined = share.rows(step - 1, len(table), self.batch_size, parted=table.parted)
                rows += joined
                if table.requests is not None:
                    # Whole requests are some rows more or fewer than the batch's places: by these,
                    # every row of the epoch counts alike.
                    joined = self.batch_size * share.streams
                measure = len(tally.terms) > 1 and step - 1 in measured_steps(steps)
                tally.add(*self._step(batch, before + step, joined, measure=measure))
                if measure and self._eager.gram is not None:
                    tally.measured(self._eager.gram)
                if step == steps:
                    break
                if step % REPORT_STEPS == 0:
                    yield report("step")
                    self._mark("")
                if self._is_due(step, perf_counter() - saved):
                    seconds = perf_counter() - started
                    sent = self.ranks.exchanged - sent_before
                    self.position = replace(
                        self.position, step=step, rows=rows, seconds=seconds, exchanged=sent,
                        streams=share.streams,
                    )  # fmt: skip
                    drawn = _generators(self.training.device, self.ranks)
                    self._within = {**tally.state(), **drawn}
                    # No loss is read for it: sums would be grouped otherwise, and end otherwise.
                    yield Progress("checkpoint", epoch, self.epochs, step, steps, rows, seconds,
                                   {}, {}, ranks=self.ranks.count)  # fmt: skip
                    saved = perf_counter()
                    self._mark("")
        self.position = replace(self.position, step=0, rows=0, seconds=0.0, exchanged=0, streams=1)
        self._within = {}
        progress = report("epoch")
        self.balance.end_epoch(progress.losses)
        if self.first is not None:
            self.first.end_epoch()
            self.first.stages.share.fill_(1.0)
        logits = self._shared(self._finite_logits(epoch, step))
        valid = self._validate(logits, epoch) if self.valid is not None else {}
        best = self._advance(epoch, self._value(logits, valid))
        gates = {name: value for each in self.experts() for name, value in each.figures().items()}
        weights = {k: v for each in self.propensities(logits) for k, v in each.figures().items()}
        compared = cosines(tally.gram, tally.terms)
        progress = replace(
            progress, valid=valid, best=best, experts=gates, propensities=weights, cosines=compared
        )
        self.position = replace(self.position, history=(*self.position.history, progress.record()))
        yield progress

    def _begin(self, epoch: int) -> Tally:
        """Set the generators and the sums as they are at the position; return the sums."""
        tally = Tally([term.name for term in self.supervision.schema.objective])
        if not self.position.step:
            # Dropout of hidden units draws from torch's generator: seeded here, an epoch that is
            # resumed draws what it would have drawn.
            self._seed_generator(epoch)
            return tally
        tally.load(self._within)
        if self.ranks.rank < self.position.streams:
            _set_generators(self.training.device, self._within, self.ranks.rank)
        else:
            self._seed_generator(epoch)
        return tally

    def _seed_generator(self, epoch: int) -> None:
        of_rank = [self.ranks.rank] if self.ranks.several else []
        words = np.random.SeedSequence([self.seed, epoch, *of_rank]).generate_state(1)
        torch.manual_seed(int(words[0]))

    def _is_due(self, step: int, seconds: float) -> bool:
        """Whether a checkpoint follows this step, so many seconds after the last one."""
        asked = self.training.checkpoint
        if asked is None:
            return False
        if asked.steps is not None:
            return step % asked.steps == 0
        due = asked.minutes is not None and seconds >= 60 * asked.minutes
        return self.ranks.of_first(due)  # clocks differ

    def _blocks(self, epoch: int, start: int) -> Generator[list[Batch]]:
        """Return an epoch's batches by the block, with the next one prefetched where that pays.

        It pays for large batches and a spare core: on 2 cores, with 1 thread of torch, MMoE was
        1.22 times as fast at 16384 rows, and no faster at 4096; ESMM at neither.
        """
        layout, size, rate = self.ranker.layout, self.batch_size, self.training.unseen_rate
        blocks = self.train.blocks(
            layout, size, shuffle=True, seed=self.seed, epoch=epoch, unseen_rate=rate, start=start,
            share=self._share, whole_requests=self.train.requests is not None,
        )  # fmt: skip
        idle = (os.cpu_count() or 1) > self.training.threads
        return ahead(blocks) if idle and size >= PREFETCH_ROWS else blocks

    def _step(
        self, batch: Batch, done: int, joined: int, *, measure: bool
    ) -> tuple[Tensor, Tensor]:
        """Train on a batch; return the losses and the rows of each term.

        A process without rows in the joined batch goes along with one that teaches nothing. A step
        that measures is an eager one.
        """
        mine = len(batch)
        batch = batch if mine else self._idle
        run = self.epochs * self.steps
        factor = self.training.schedule.factor(done, run, self._improved)
        moved = Tensors.of(batch, self.training.device)
        self._x = x = self.ranker.embed.look_up(moved.ids, moved.dense, moved.bags, self._x)
        margin = None if self.first is None else self.first.step(batch, x)
        self._mark("gather")
        draws = draws_of(x) if self.balance.looks_again else ()
        lr = self.dense_lr * factor
        if self._compiled is not None and len(batch) == self.batch_size and not measure:
            step = self._compiled
            gradient, losses, rows = step(x, margin, moved, lr)
        else:
            step = self._eager
            gradient, losses, rows = step(x, margin, moved, lr, joined, measure=measure)
        self._names = step.names
        ids, bags = moved.ids, moved.bags
        if not mine:
            none = Tensors.of(batch.none(), self.training.device)
            ids, gradient, bags = none.ids, gradient[:0], none.bags
        self.embeddings.step(ids, gradient, self.embedding_lr * factor, bags)
        self._mark("embedding step")
        if self.balance.looks_again:
            now = self.ranker.embed.look_up(moved.ids, moved.dense, moved.bags, x)
            own = self.ranker.layout.own_width  # what first stages gave to be read stays
            now[:, own:] = x.detach()[:, own:]
            after = self._eager.losses_now(now, margin, moved, joined, draws)
            self.balance.after_step(losses[: len(after)], after)
        if self._profile is not None:
            self._profile.count(joined)
        return losses, rows

    @cached_property
    def _idle(self) -> Batch:
        """A row without labels."""
        row = next(self.train.batches(self.ranker.layout, 1))
        return replace(row, labels=np.full_like(row.labels, np.nan))

    def _finite_logits(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Return logits of the validation rows, or of some training rows; all must be finite."""
        logits = self._known_logits()
        for task, each in logits.items():
            if not torch.isfinite(each).all():
                where = f"after epoch {epoch}, step {step}"
                raise TrainingError(f"the logits of {task!r} are not finite {where}: {REMEDY}")
        return logits

    def _known_logits(self) -> dict[str, Tensor]:
        if self.valid is None:
            return logits_of(self.ranker, self.train, self.training.device, chunks=1)
        return self._logits_of(self.valid)

    def _logits_of(self, table: Table) -> dict[str, Tensor]:
        """Return the logits of all rows, of which each process computes a part."""
        ranks, rows = self.ranks, len(table)
        if not ranks.several:
            return logits_of(self.ranker, table, self.training.device)
        # Each computes as many, since they look up together; what was another's is left out.
        most = -(-rows // ranks.count)
        begin, end = (min(most * rank, rows) for rank in (ranks.rank, ranks.rank + 1))
        own = part(table, slice(end - most, end))
        found = logits_of(self.ranker, own, self.training.device)
        names = list(self.ranker.head)
        given = ranks.joined([found[name][most - (end - begin) :] for name in names])
        return dict(zip(names, map(torch.cat, zip(*given, strict=True)), strict=True))

    def _validate(self, logits: Mapping[str, Tensor], epoch: int) -> dict[str, float]:
        """Return validation losses and metrics by name."""
        assert self.valid is not None
        schema = self.supervision.schema
        rows = _labels(self.valid)
        requests = self.valid.requests
        sums = self.supervision.sums(
            logits, *rows, requests=None if requests is None else torch.from_numpy(requests)
        )
        found, total = {}, 0.0
        for term in schema.objective:
            if (each := sums[term.name]).weight > 0:
                found[f"{term.name} loss"] = loss = float(each.total / each.weight)
                total += term.weight * loss
        found["total loss"] = total
        own, weighted = self.supervision.own_losses(logits, *rows), 0.0
        for task in schema.tasks:
            if task.name in own:
                name = own_population(schema, task).predicted
                found[f"{name} {NORMALIZED}"] = own[task.name]
                weighted += task.weight * own[task.name]
        if own:
            found[NORMALIZED] = weighted
        for name, value in found.items():
            if not isfinite(value):
                raise TrainingError(f"validation {name} is {value} after epoch {epoch}: {REMEDY}")
        return found | self._metrics(self.valid, logits)

    def _metrics(self, table: Table, logits: Mapping[str, Tensor]) -> dict[str, float]:
        """Return each score's default metric and the one that early stopping watches."""
        schema, stop = self.supervision.schema, self.training.stop
        wanted = {each.name: {each.label_kind.default_metric} for each in populations(schema)}
        if stop is not None:
            wanted[stop.score].add(stop.metric)
        extras = named_extras(schema, torch.from_numpy(table.extras))
        exact = {name: each.double() for name, each in logits.items()}
        found = outputs(schema, exact, self.supervision.likelihoods, extras)
        card = scorecard(
            schema,
            {name: each.numpy() for name, each in found.items()},
            table.labels_by_task,
            split="valid",
            user=table.user,
            request=table.request,
            weight=table.weight,
            groups={
                name: each.codes
                for name, each in label_groups(table, self.supervision.fitted).items()
            },
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

    def _value(self, logits: Mapping[str, Tensor], valid: Mapping[str, float]) -> float | None:
        """Return what is compared between epochs, lower being better; None without validation."""
        if self.valid is None:
            return None
        if self.monitor is not None:
            return self.monitor(logits, valid)
        stop = self.training.stop
        if stop is None:
            return valid.get(NORMALIZED, valid["total loss"])
        kinds = {each.name: each.kind for each in populations(self.supervision.schema)}
        value = valid[f"{stop.score} {stop.metric}"]
        return -value if direction(kinds[stop.score], stop.metric) else value


def _generators(device: str, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Return the states of the generators that dropout draws from, those of each process."""
    found = {"generator": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        found["generator of the device"] = torch.cuda.get_rng_state(device)
    return {
        f"{name}{_of(rank)}": each
        for rank, own in enumerate(ranks.by_all(found))
        for name, each in own.items()
    }


def _set_generators(device: str, state: Mapping[str, Tensor], rank: int = 0) -> None:
    """Restore what `_generators` returned."""
    torch.set_rng_state(state[f"generator{_of(rank)}"])
    of_device = f"generator of the device{_of(rank)}"
    if of_device in state:
        torch.cuda.set_rng_state(state[of_device], device)


def _of(rank: int) -> str:
    return f" of rank {rank}" if rank else ""


def _untold(valid: Table) -> set[str]:
    """Return the heads of which validation rows are too few to choose anything by."""
    own = own_terms(valid.schema)
    found = term_statistics(valid, terms=own)
    return {each.population.task for each in own if not found[each.name].telling}


def _mixed(margin: Tensor, logits: Tensor, share: float) -> Tensor:
    """Return logits with a share of what they have beside the margin, where there is one."""
    return torch.where(margin.isnan(), logits, margin + share * (logits - margin))


def _labels(table: Table) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what losses take of labelled rows beside logits."""
    weight = None if table.weight is None else torch.from_numpy(table.weight)
    return torch.from_numpy(table.labels), weight, torch.from_numpy(table.extras)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def balance_terms(supervision: Supervision) -> list[BalanceTerm]:
    """Return what a balance may know of each term."""
    return [
        BalanceTerm(
            name=term.name,
            weight=term.weight,
            constant_loss=likelihood.constant_loss(term, supervision.statistics[term.name]),
            # That of a squared error is of the likelihood alone, and of no loss beside it.
            exponent=likelihood.balance_exponent if term.method is None else 1.0,
            share=supervision.statistics[term.name].weight_share,
            is_density=term.population.label_kind.is_density and term.method is None,
        )
        for term in supervision.schema.objective
        for likelihood in (supervision.likelihoods[term.population.task],)
    ]


def measured_steps(steps: int) -> range:
    """Return the steps of an epoch, counted from 0, that compare the terms' gradients.

    Examples:
        >>> [*measured_steps(40)], len(measured_steps(1000)), [*measured_steps(1)]
        ([8, 24], 8, [0])
    """
    every = max(MEASURED_EVERY, -(-steps // MEASURED_STEPS))
    return range(min(every, steps) // 2, steps, every)


Item = TypeVar("Item")
_END: Any = object()


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """Yield items in order; one thread makes the next while the caller uses this one.

    The thread ends with the generator, however that ends, and what an item raises is raised here.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="polyrank-prefetch") as pool:
        coming = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item
