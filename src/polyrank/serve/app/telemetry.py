"""What an operator sees: counts for Prometheus, and one JSON object per line of the log."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from polyrank.serve.app.scorer import Scored

_MS = (0.5, 1, 2, 3, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
BUCKETS_S = tuple(each / 1000 for each in _MS)


class Telemetry(Collector):
    """The server's counts since it started; only the event loop's thread may use it.

    A request costs a few additions: labels are made when the counts are read.
    """

    def __init__(self, id_features: Iterable[str], features: Iterable[str]) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.rows = self.in_flight = self.rejected = 0
        self.ids = dict.fromkeys(id_features, 0)
        self.unseen = dict(self.ids)
        self.nulls = dict.fromkeys(features, 0)
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def scored(self, found: Scored) -> None:
        """Count the rows, ids and missing values of a scored request."""
        self.rows += found.rows
        totals = (self.ids, self.unseen, self.nulls)
        for total, more in zip(totals, (found.ids, found.unseen, found.nulls), strict=True):
            for name, count in more.items():
                if count:
                    total[name] += count

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
        requests = CounterMetricFamily(
            "polyrank_requests", "Requests answered.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self.requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        yield CounterMetricFamily("polyrank_rows", "Rows scored.", value=self.rows)
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._buckets), strict=True))
        yield HistogramMetricFamily(
            "polyrank_request_seconds",
            "Seconds of a scoring request, from its headers to the end of its answer.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        for name, what, counts in (
            ("polyrank_ids", "Ids looked up.", self.ids),
            ("polyrank_unseen_ids", "Ids not seen in training.", self.unseen),
            ("polyrank_missing_values", "Nulls, and NaN in numbers.", self.nulls),
        ):
            family = CounterMetricFamily(name, what, labels=["feature"])
            for feature, count in counts.items():
                family.add_metric([feature], count)
            yield family
        yield GaugeMetricFamily("polyrank_in_flight", "Requests in flight.", value=self.in_flight)
        yield CounterMetricFamily(
            "polyrank_queue_rejected",
            "Requests refused because the queue was full.",
            value=self.rejected,
        )


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
