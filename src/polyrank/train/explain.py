"""What a run would do, before a second of training: terms, rows, parameters, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from polyrank import spec
from polyrank.data.delays import DelayStatistics
from polyrank.data.delays import statistics as delay_statistics
from polyrank.data.labels import closed
from polyrank.data.memory import SHARE
from polyrank.data.requests import RequestStatistics
from polyrank.data.sampling import Sampling
from polyrank.data.statistics import TermStatistics
from polyrank.metrics.fusion import Fusion
from polyrank.models.model import Model
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema
from polyrank.text import aligned
from polyrank.train.fit import learned_by
from polyrank.train.held import is_sharded, table_bytes
from polyrank.train.loop import balance_terms, measured_steps
from polyrank.train.sources import Sources, encoded
from polyrank.train.start import Start
from polyrank.train.together import TogetherPlan, exchanged
from polyrank.train.training import Training


@dataclass(frozen=True)
class RunPlan:
    """What a run would do; prints as tables."""

    schema: Schema
    rows: Mapping[str, int]  # of each split, as the log has them
    statistics: Mapping[str, TermStatistics]  # of each term on the training rows
    parameters: Mapping[
        str, int
    ]  # of each part: `embed.TABLE`, `interaction`, `trunk`, `head.TASK`
    memory_bytes: Mapping[str, int]
    steps: int  # per epoch
    epochs: int
    sampling: Sampling | None = None
    fusion: Fusion | None = None
    together: TogetherPlan | None = None  # of several processes, where somebody asked
    requests: Mapping[str, RequestStatistics] = field(default_factory=dict)  # of terms that rank
    delays: Mapping[str, DelayStatistics] = field(default_factory=dict)  # of tasks, in training
    served: Mapping[str, Any] = field(default_factory=dict)  # what features have at prediction

    def __str__(self) -> str:
        splits = ", ".join(f"{split} {rows:,}" for split, rows in self.rows.items())
        rows = f"rows: {splits}; {self.steps:,} steps per epoch, {self.epochs} epochs"
        if self.sampling is not None:
            rows += f"\nsampling: {self.sampling}; rows and positives are counted as they were kept"
        if self.fusion is not None:
            weights = ", ".join(f"{name} = {w:g}" for name, w in self.fusion.weights.items())
            rows += f"\nfused score: {weights}"
        if self.served:
            shown = ", ".join(f"{name} = {value}" for name, value in self.served.items())
            rows += f"\nset at prediction: {shown}"
        terms = []
        for term in self.schema.objective:
            found = self.statistics[term.name]
            positives = "–" if found.positives is None else f"{found.positives:,}"
            counts = [f"{found.rows:,}", positives, f"{found.mean:.4g}"]
            terms.append([term.name, term.probability, *counts])
        titles = ["term", "probability", "usable rows", "positives", "mean"]
        parameters = _with_total(["part", "parameters"], self.parameters, ",")
        memory = {name: count / 2**20 for name, count in self.memory_bytes.items()}
        tables = [aligned(titles, terms, [2, 3, 4])]
        if self.requests:
            counted = [
                [name, f"{each.requests:,}", f"{each.mixed:,}", f"{each.rows:,}"]
                for name, each in self.requests.items()
            ]
            heads = ["term over requests", "requests", "with two labels", "rows in these"]
            tables.append(aligned(heads, counted, [1, 2, 3]))
        if self.delays:
            tables.append(_delays(self.schema, self.delays))
        tables.append(parameters)
        tables.append(_with_total(["memory", "MiB"], memory, ",.1f"))
        if self.together is not None:
            tables.append(str(self.together))
        return "\n\n".join([str(self.schema.objective), rows, *tables])

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        objective = [
            {
                "term": term.name,
                "probability": term.probability,
                "held": list(term.held),
                "label": term.label,
                "rows": term.population.space,
                "kind": term.population.kind,
                "usable_rows": self.statistics[term.name].rows,
                "positives": self.statistics[term.name].positives,
                "mean": self.statistics[term.name].mean,
                **(
                    {"requests": asdict(self.requests[term.name])}
                    if term.name in self.requests
                    else {}
                ),
            }
            for term in self.schema.objective
        ]
        return {
            "objective": objective,
            "rows": dict(self.rows),
            "sampling": spec.to_table(self.sampling),
            "fusion": None if self.fusion is None else self.fusion.to_table(),
            "served": dict(self.served),
            "steps": self.steps,
            "epochs": self.epochs,
            "parameters": dict(self.parameters),
            "memory_bytes": dict(self.memory_bytes),
            **({} if self.together is None else {"together": self.together.to_json()}),
            **({"delays": spec.to_table(self.delays)} if self.delays else {}),
        }


def explain(
    schema: Schema,
    model: Model,
    training: Training,
    sources: Sources,
    fusion: Fusion | None = None,
    begun: Start | None = None,
    *,
    ranks: int | None = None,
    limit: int | None = None,
    rate: float | None = None,
) -> RunPlan:
    """Return the plan of a run; reads the data, trains nothing.

    Args:
        schema: features, tasks and keys.
        model: the network's spec.
        training: its options.
        sources: the rows.
        fusion: weights of a fused score.
        begun: what the run starts from.
        ranks: how many processes train together; then the plan says what each of them needs.
        limit: bytes that each of them may take.
        rate: rows per second that one process trained, where it was measured.
    """
    origin, given = None if begun is None else begun.opened(), model.supervised(schema)
    schema = closed(given if origin is None else origin.closed(given), sources.train)
    model.check(schema)
    if origin is None:
        vocab, tables = encoded(schema, sources)
    else:
        origin.check(schema, model)
        learned = learned_by(schema, sources, origin)  # refuses rows that were learned
        vocab, tables = encoded(schema, sources, before=origin.before)
        if learned[-1].rows:
            training = origin.training(training, len(tables["train"]), learned)
    # These two refuse what training would.
    supervision = Supervision.of(tables["train"], sources.train_sampling)
    training.balance.build(balance_terms(supervision))
    layout, pace = model.layout(schema, vocab), training.pace(len(tables["train"]))
    with torch.device("meta"):  # counts without allocating
        ranker = model.build(layout)
    parameters = {f"embed.{table}": vocab.rows[table] * w for table, w in layout.widths.items()}
    for name, part in ranker.parts.items():
        parameters[name] = sum(each.numel() for each in part.parameters())
    weights = 4 * sum(parameters.values())
    memory = {f"{split} rows": table.nbytes for split, table in tables.items()}
    memory |= {"parameters and the best ones": 2 * weights, "optimiser state": 2 * weights}
    memory |= {f"first stage: {s.name}": s.memory(schema, vocab.rows) for s in model.first_stages}
    plan = None
    if ranks is not None:
        size = training.pace(len(tables["train"]), ranks).batch_size
        room = None if limit is None else round(SHARE * limit)
        sharded = ranks > 1 and is_sharded(training, table_bytes(layout, model), room)
        holders = ranks if sharded else 1
        steps = -(-len(tables["train"]) // (size * ranks))
        sent = exchanged(
            ranker, model, supervision, tables["train"], size, training.unseen_rate, holders,
            measured=len(measured_steps(steps)) / steps,
        )  # fmt: skip
        # What is received lies beside what is made of it.
        buffers = {"exchanges": round(2 * (1 if sharded else ranks) * sum(sent.values()))}
        own = {name: size for name, size in memory.items() if name.endswith(" rows")}
        own |= {name: size // holders for name, size in memory.items() if name not in own}
        plan = TogetherPlan(
            ranks, own | buffers, limit, sharded, sent, steps,
            step_seconds=None if rate is None else size / rate,
        )  # fmt: skip
    return RunPlan(
        schema=schema,
        rows={split: len(table) for split, table in tables.items()},
        statistics=supervision.statistics,
        parameters=parameters,
        memory_bytes=memory,
        steps=-(-len(tables["train"]) // pace.batch_size),
        epochs=pace.epochs,
        sampling=sources.sampling,
        fusion=fusion,
        together=plan,
        requests=supervision.requests,
        delays=delay_statistics(schema, tables["train"].labels),
        served=vocab.serving,
    )


def _delays(schema: Schema, delays: Mapping[str, DelayStatistics]) -> str:
    """Return what time leaves of the labels that are known late."""
    heads = [
        "known late", "window", "the log's cut", "rows", "younger than the window", "events",
        "of younger rows", "after the window", "learned from",
    ]  # fmt: skip
    lines = []
    for name, each in delays.items():
        window, counts = schema.delays[name].window, [each.rows, each.immature, each.events]
        counts += [each.early_events, each.late_events]
        shown = window if isinstance(window, str) else f"{window:g} s"
        now = f"{each.now:.0f}" if isinstance(each.now, float) else str(each.now)
        learned = schema.delays[name].learns_from
        lines.append([name, shown, now, *(f"{count:,}" for count in counts), learned])
    return aligned(heads, lines, [3, 4, 5, 6, 7])


def _with_total(titles: list[str], counts: Mapping[str, float], form: str) -> str:
    lines = {**counts, "all": sum(counts.values())}
    return aligned(titles, [[name, format(count, form)] for name, count in lines.items()], [1])
