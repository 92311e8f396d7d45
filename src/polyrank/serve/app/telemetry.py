"""What an operator sees: counts for Prometheus, and one JSON object per line of the log."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

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

BUCKETS_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class Telemetry(Collector):
    """The server's counts since it started.

    A request costs a few additions; labels are made when somebody reads. It belongs to the event
    loop's thread.

    Args:
        id_features: names of the features whose ids are looked up.
        features: names of all features.
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
        """Count an answer."""
        self.rows += found.rows
        for total, more in (
            (self.ids, found.ids),
            (self.unseen, found.unseen),
            (self.nulls, found.nulls),
        ):
            for name, count in more.items():
                if count:
                    total[name] += count

    def answered(self, route: str, status: int) -> None:
        """Count a request."""
        self.requests[route, status] += 1

    def took(self, seconds: float) -> None:
        """Count the time of a scoring request."""
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def exposition(self) -> bytes:
        """Return all counts in the text format of Prometheus."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        requests = CounterMetricFamily(
            "polyrank_requests", "Answered requests.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self.requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        yield CounterMetricFamily("polyrank_rows", "Scored rows.", value=self.rows)
        running, buckets = 0, []
        for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], self._buckets, strict=True):
            running += count
            buckets.append((bound, running))
        yield HistogramMetricFamily(
            "polyrank_request_seconds",
            "Time of a scoring request, from its headers to the end of its answer.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        for name, what, counts in (
            ("polyrank_ids", "Ids that were looked up.", self.ids),
            ("polyrank_unseen_ids", "Ids that training did not see.", self.unseen),
            ("polyrank_missing_values", "Nulls, and NaN of a number.", self.nulls),
        ):
            family = CounterMetricFamily(name, what, labels=["feature"])
            for feature, count in counts.items():
                family.add_metric([feature], count)
            yield family
        yield GaugeMetricFamily(
            "polyrank_in_flight", "Requests that are being answered.", value=self.in_flight
        )
        yield CounterMetricFamily(
            "polyrank_queue_rejected",
            "Requests that were turned away because too many waited.",
            value=self.rejected,
        )


# In ASCII: a path that a client chose may hold what a reader takes for the end of a line, or what a
# terminal obeys.
_ENCODER = json.JSONEncoder(ensure_ascii=True, default=str)


class JsonLines(logging.Formatter):
    """A formatter whose lines are JSON: time, level, logger, message, and `extra={"about": {…}}`.

    Example:
        >>> record = logging.LogRecord("web", logging.INFO, "", 0, "%d rows", (3,), None)
        >>> record.about = {"status": 200}
        >>> JsonLines().format(record)[37:]
        '"level": "info", "logger": "web", "message": "3 rows", "status": 200}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line)


def to_stderr() -> None:
    """Send every logger's lines to standard error as JSON: ours from INFO, others' from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("polyrank").setLevel(logging.INFO)
