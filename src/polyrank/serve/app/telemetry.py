"""What an operator sees: counts for Prometheus, and one JSON object per line of the log."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from polyrank.serve.app.limits import Bodies
from polyrank.serve.app.scorer import Compared, Scored
from polyrank.serve.engine import Engine

_MS = (0.5, 1, 2, 3, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
BUCKETS_S = tuple(each / 1000 for each in _MS)
RELOADS = ("loaded", "same", "refused")
GIVEN_UP = ("many", "head", "slow", "unread")
SHADOWS = ("scored", "failed", "skipped")


class Telemetry(Collector):
    """The server's counts since it started; only the event loop's thread may use it.

    A request costs a few additions: labels are made when the counts are read. The features of a
    model are those of the bundles that it has had.
    """

    def __init__(self, bodies: Bodies) -> None:
        self.bodies = bodies
        self.refused: Counter[str] = Counter(dict.fromkeys(GIVEN_UP, 0))
        self.requests: Counter[tuple[str, int]] = Counter()
        self.in_flight = self.rejected = 0
        self.rows: Counter[str] = Counter()
        self.ids: Counter[tuple[str, str]] = Counter()  # model, feature
        self.unseen: Counter[tuple[str, str]] = Counter()
        self.nulls: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[tuple[str, str]] = Counter()  # model, what came of it
        self.shadows: Counter[tuple[str, str]] = Counter()  # model, what came of it
        self.shadow_rows: Counter[str] = Counter()
        self.shadow_first: Counter[str] = Counter()
        self.shadow_differences: dict[tuple[str, str], float] = {}  # model, output
        self.versions: dict[str, str] = {}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def serves(self, model: str, engine: Engine) -> None:
        """Note the bundle that answers under a name, so that what never happened is counted 0."""
        self.versions[model] = engine.version
        for outcome in RELOADS:
            self.reloads[model, outcome] += 0
        self.rows[model] += 0
        for feature in engine.inputs:
            self.nulls[model, feature] += 0
        for each in engine.schema.features:
            if each.id_tables:
                self.ids[model, each.name] += 0
                self.unseen[model, each.name] += 0

    def scored(self, model: str, found: Scored) -> None:
        """Count the rows, ids and missing values of a scored request."""
        self.rows[model] += found.rows
        totals = (self.ids, self.unseen, self.nulls)
        for total, more in zip(totals, (found.ids, found.unseen, found.nulls), strict=True):
            for name, count in more.items():
                if count:
                    total[model, name] += count

    def shadowed(self, model: str) -> None:
        """Note that a model is a shadow."""
        for outcome in SHADOWS:
            self.shadows[model, outcome] += 0

    def compared(self, model: str, found: Compared) -> None:
        """Count how a shadow's answer differs."""
        self.shadows[model, "scored"] += 1
        self.shadow_rows[model] += found.rows
        for output, difference in found.differences.items():
            before = self.shadow_differences.get((model, output), 0.0)
            self.shadow_differences[model, output] = before + difference
        if found.same_first is not None:
            self.shadow_first[model] += found.same_first

    def gave_up(self, reason: str) -> None:
        """Count a connection that was given up."""
        self.refused[reason] += 1

    def answered(self, route: str, status: int) -> None:
        """Count a request by its route and status."""
        self.requests[route, status] += 1

    def took(self, seconds: float) -> None:
        """Count a request in the histogram of seconds."""
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def exposition(self) -> bytes:
        """Return all counts in the text format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        answered = {(route, str(status)): n for (route, status), n in sorted(self.requests.items())}
        yield _counter("requests", "Requests answered.", ["route", "status"], answered)
        yield _counter("rows", "Rows scored.", ["model"], self.rows)
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._buckets), strict=True))
        yield HistogramMetricFamily(
            "polyrank_request_seconds",
            "Seconds of a scoring request, from its headers to the end of its answer.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        feature = ["model", "feature"]
        yield _counter("ids", "Ids looked up.", feature, self.ids)
        yield _counter("unseen_ids", "Ids not seen in training.", feature, self.unseen)
        yield _counter("missing_values", "Nulls, and NaN in numbers.", feature, self.nulls)
        yield _counter("reloads", "Bundles looked at.", ["model", "outcome"], self.reloads)
        if self.shadows:
            yield _counter(
                "shadow_requests", "Requests that a shadow got.", ["model", "outcome"], self.shadows
            )
            yield _counter("shadow_rows", "Rows compared.", ["model"], self.shadow_rows)
            yield _counter(
                "shadow_same_first", "Requests with one best row.", ["model"], self.shadow_first
            )
            yield _counter(
                "shadow_difference", "Sum over rows of |shadow - given|.", ["model", "output"],
                self.shadow_differences,
            )  # fmt: skip
        versions = GaugeMetricFamily(
            "polyrank_bundle", "1 for the bundle that answers.", labels=["model", "version"]
        )
        for model, version in self.versions.items():
            versions.add_metric([model, version], 1)
        yield versions
        yield _counter("connections_refused", "Connections given up.", ["reason"], self.refused)
        yield GaugeMetricFamily(
            "polyrank_body_bytes", "Bytes of bodies in memory.", value=self.bodies.bytes
        )
        yield GaugeMetricFamily("polyrank_in_flight", "Requests in flight.", value=self.in_flight)
        yield CounterMetricFamily(
            "polyrank_queue_rejected",
            "Requests refused because the queue or the memory for bodies was full.",
            value=self.rejected,
        )


def _counter(
    name: str, what: str, labels: Sequence[str], counts: Mapping[Any, float]
) -> CounterMetricFamily:
    """Return counts whose keys are a label, or a tuple of several."""
    family = CounterMetricFamily(f"polyrank_{name}", what, labels=labels)
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else list(key), count)
    return family


# In ASCII: a path that a client chose may hold a line separator or a terminal's control sequence.
_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str)


class JsonLines(logging.Formatter):
    """A formatter whose lines are JSON: time, level, logger, message, `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def log_to_stderr() -> None:
    """Log to standard error as JSON: polyrank's loggers from INFO, all others from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("polyrank").setLevel(logging.INFO)
