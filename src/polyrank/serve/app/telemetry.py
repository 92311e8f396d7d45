"""The counts of a server, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from polyrank.monitor.profile import Profile
from polyrank.serve.app.limits import Bodies
from polyrank.serve.app.scorer import Compared, Scored
from polyrank.serve.engine import Engine

_MS = (0.5, 1, 2, 3, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
BUCKETS_S = tuple(each / 1000 for each in _MS)
RELOADS = ("loaded", "same", "refused")
GIVEN_UP = ("many", "head", "slow", "unread")
State = dict[str, Any]  # as JSON
SHADOWS = ("scored", "failed", "skipped")
SAMPLED = ("written", "dropped", "unreadable", "failed")


_COUNTS = (
    "refused", "requests", "rows", "ids", "unseen", "nulls", "reloads", "shadows", "shadow_rows",
    "shadow_first", "shadow_differences", "predictions", "sampled",
)  # fmt: skip


class Telemetry:
    """The server's counts since it started; only the event loop's thread may use it.

    A request costs a few additions: labels are made when the counts are read. The features of a
    model are those of the bundles that it has had.

    Attributes:
        elsewhere: returns the `state` of each other process of the server.
    """

    def __init__(self, bodies: Bodies | None = None) -> None:
        self.bodies = bodies
        self.refused: Counter[str] = Counter(dict.fromkeys(GIVEN_UP, 0))
        self.requests: Counter[tuple[str, int]] = Counter()
        self.in_flight = self.rejected = self.body_bytes = 0
        self.rows: Counter[str] = Counter()
        self.ids: Counter[tuple[str, str]] = Counter()  # model, feature
        self.unseen: Counter[tuple[str, str]] = Counter()
        self.nulls: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[tuple[str, str]] = Counter()  # model, what came of it
        self.shadows: Counter[tuple[str, str]] = Counter()  # model, what came of it
        self.shadow_rows: Counter[str] = Counter()
        self.shadow_first: Counter[str] = Counter()
        self.shadow_differences: dict[tuple[str, str], float] = {}  # model, output
        self.sampled: Counter[tuple[str, str]] = Counter()  # model, what came of it
        self.predictions: Counter[tuple[str, str, str]] = Counter()  # model, output, bin
        self.profiles: dict[str, Profile] = {}
        self.at_fit: dict[tuple[str, str, str, str], float] = {}  # model, facet, of, category
        self.versions: dict[str, str] = {}
        self.running: Counter[tuple[str, str]] = Counter()  # model, version: processes
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0
        self.elsewhere: Callable[[], Iterable[State]] = tuple

    def serves(self, model: str, engine: Engine) -> None:
        """Note the bundle that answers under a name, so that what never happened is counted 0."""
        self.versions[model] = engine.version
        self._profiled(model, engine.profile)
        for outcome in RELOADS:
            self.reloads[model, outcome] += 0
        self.rows[model] += 0
        for feature in engine.inputs:
            self.nulls[model, feature] += 0
        for each in engine.schema.features:
            if each.id_tables:
                self.ids[model, each.name] += 0
                self.unseen[model, each.name] += 0

    def _profiled(self, model: str, profile: Profile | None) -> None:
        """Note what a bundle has seen at fit; what one before it had seen is forgotten."""
        self.at_fit = {key: share for key, share in self.at_fit.items() if key[0] != model}
        self.profiles.pop(model, None)
        if profile is None:
            return
        self.profiles[model] = profile
        for each in profile.facets:
            total = sum(each.counts)
            for category, count in zip(each.categories, each.counts, strict=True):
                self.at_fit[model, each.name, each.of, category] = count / total
                if each.of == "prediction":
                    self.predictions[model, each.name, category] += 0

    def scored(self, model: str, found: Scored) -> None:
        """Count the rows, ids and missing values of a scored request."""
        self.rows[model] += found.rows
        totals = (self.ids, self.unseen, self.nulls)
        for total, more in zip(totals, (found.ids, found.unseen, found.nulls), strict=True):
            for name, count in more.items():
                if count:
                    total[model, name] += count
        profile = self.profiles.get(model)
        for facet in () if profile is None else profile.facets:
            if facet.of == "prediction" and facet.name in found.outputs:
                counts = facet.count(found.outputs[facet.name])
                for category, count in zip(facet.categories, counts.tolist(), strict=True):
                    if count:
                        self.predictions[model, facet.name, category] += count

    def shadowed(self, model: str) -> None:
        """Note that a model is a shadow."""
        for outcome in SHADOWS:
            self.shadows[model, outcome] += 0

    def samples(self, model: str) -> None:
        """Note that requests to a model are sampled."""
        for outcome in SAMPLED:
            self.sampled[model, outcome] += 0

    def sampled_as(self, model: str, outcome: str, requests: int) -> None:
        """Count what came of sampled requests."""
        self.sampled[model, outcome] += requests

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
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds

    def state(self) -> State:
        """Return all counts, and what is now, as JSON."""
        return {
            "counts": {name: list(getattr(self, name).items()) for name in _COUNTS},
            "rejected": self.rejected,
            "buckets": self.buckets,
            "seconds": self.seconds,
            "now": {
                "in_flight": self.in_flight,
                "body_bytes": 0 if self.bodies is None else self.bodies.bytes,
                "running": list(self.versions.items()),
                "at_fit": list(self.at_fit.items()),
            },
        }

    def add(self, state: State, *, now: bool) -> None:
        """Add the counts of a state; with `now`, also what is now in its process."""
        for name, pairs in state["counts"].items():
            mine = getattr(self, name)
            for key, count in pairs:
                label = tuple(key) if isinstance(key, list | tuple) else key
                mine[label] = mine.get(label, 0) + count
        self.rejected += state["rejected"]
        self.buckets = [a + b for a, b in zip(self.buckets, state["buckets"], strict=True)]
        self.seconds += state["seconds"]
        if now:
            self.in_flight += state["now"]["in_flight"]
            self.body_bytes += state["now"]["body_bytes"]
            self.at_fit.update((tuple(key), share) for key, share in state["now"]["at_fit"])
            for model, version in state["now"]["running"]:
                self.running[model, version] += 1

    def exposition(self) -> bytes:
        """Return the counts of all processes in the text format of Prometheus."""
        total = Telemetry()
        for state in (self.state(), *self.elsewhere()):
            total.add(state, now=True)
        registry = CollectorRegistry()
        registry.register(_Families(total))
        return generate_latest(registry)


class _Families(Collector):
    """Counts as metrics."""

    def __init__(self, counts: Telemetry) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        counts = self._counts
        requests = sorted(counts.requests.items())
        answered = {(route, str(status)): count for (route, status), count in requests}
        yield _counter("requests", "Requests answered.", ["route", "status"], answered)
        yield _counter("rows", "Rows scored.", ["model"], counts.rows)
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(counts.buckets), strict=True))
        yield HistogramMetricFamily(
            "polyrank_request_seconds",
            "Seconds of a scoring request, from its headers to the end of its answer.",
            buckets=buckets,
            sum_value=counts.seconds,
        )
        feature = ["model", "feature"]
        yield _counter("ids", "Ids looked up.", feature, counts.ids)
        yield _counter("unseen_ids", "Ids not seen in training.", feature, counts.unseen)
        yield _counter("missing_values", "Nulls, and NaN in numbers.", feature, counts.nulls)
        yield _counter(
            "predictions", "Rows by bin of an output; the bins are the profile's.",
            ["model", "output", "bin"], counts.predictions,
        )  # fmt: skip
        profile = GaugeMetricFamily(
            "polyrank_profile_share", "Share of the rows at fit that were in a category.",
            labels=["model", "name", "of", "category"],
        )  # fmt: skip
        for key, share in counts.at_fit.items():
            profile.add_metric(list(key), share)
        yield profile
        yield _counter("reloads", "Bundles looked at.", ["model", "outcome"], counts.reloads)
        if counts.shadows:
            yield _counter(
                "shadow_requests", "Requests of a shadow.", ["model", "outcome"], counts.shadows
            )
            yield _counter("shadow_rows", "Rows compared.", ["model"], counts.shadow_rows)
            yield _counter(
                "shadow_same_first", "Requests with one best row.", ["model"], counts.shadow_first
            )
            yield _counter(
                "shadow_difference", "Sum over rows of |shadow - given|.", ["model", "output"],
                counts.shadow_differences,
            )  # fmt: skip
        if counts.sampled:
            yield _counter(
                "sampled_requests", "Requests to log as rows.", ["model", "outcome"], counts.sampled
            )
        versions = GaugeMetricFamily(
            "polyrank_bundle", "Processes in which it answers.", labels=["model", "version"]
        )
        for (model, version), count in counts.running.items():
            versions.add_metric([model, version], count)
        yield versions
        yield _counter("connections_refused", "Connections given up.", ["reason"], counts.refused)
        yield GaugeMetricFamily(
            "polyrank_body_bytes", "Bytes of bodies in memory.", value=counts.body_bytes
        )
        yield GaugeMetricFamily("polyrank_in_flight", "Requests in flight.", value=counts.in_flight)
        yield CounterMetricFamily(
            "polyrank_queue_rejected",
            "Requests refused because the queue or the memory for bodies was full.",
            value=counts.rejected,
        )


def _counter(
    name: str, what: str, labels: Sequence[str], counts: Mapping[Any, float]
) -> CounterMetricFamily:
    """Return counts whose keys are a label, or a tuple of several."""
    family = CounterMetricFamily(f"polyrank_{name}", what, labels=labels)
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else list(key), count)
    return family
