"""What a tracker is: a spec that opens a run, which is then told of epochs and of its end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank import spec
from polyrank.bundle.model import Bundle
from polyrank.errors import ConfigError
from polyrank.train.progress import Progress

logger = logging.getLogger(__name__)

Number = int | float


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A run that is tracked.

    Args:
        name: of the experiment, and its seed.
        folder: the run folder; None where the run writes none.
        config: the experiment as plain tables.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, str | int | float | bool]:
        """The configuration as one line a key, `model.trunk.kind`."""
        return dict(_flat(self.config, ""))


class Tracking(ABC):
    """A tracked run that is open."""

    @abstractmethod
    def epoch(self, number: int, values: Mapping[str, Number]) -> None:
        """Take what an epoch gave, such as {"valid/click @ all auc": 0.7}."""

    @abstractmethod
    def finish(self, values: Mapping[str, Number], folder: Path | None) -> None:
        """Take the scores of the kept epoch, and the finished run folder."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """End it, whether the run came to its end or not."""


class Tracker(ABC):
    """Where runs are shown; a frozen dataclass whose fields are its options."""

    @abstractmethod
    def require(self) -> None:
        """Refuse where its library is missing, by a ConfigError with what to install."""

    @abstractmethod
    def open(self, run: Tracked) -> Tracking:
        """Begin a run, or go on with the one that was begun for its folder.

        Raises:
            ConfigError: it cannot be reached, or the run lacks what it needs.
        """


def tracker_of(found: object) -> Tracker:
    """Read what a file says: a name, or a table with a kind and options."""
    from polyrank.train.track import TRACKERS

    table = {"kind": found} if isinstance(found, str) else found
    return spec.choose(TRACKERS, table, "track")  # type: ignore[arg-type]


def check_tracker(tracker: object) -> None:
    """Refuse what is no tracker, or one whose library is missing, before a row is read."""
    if tracker is None:
        return
    if not isinstance(tracker, Tracker):
        raise ConfigError(f"track must be a tracker such as TensorBoard(), got {tracker!r}")
    tracker.require()


@contextmanager
def tracked(tracker: Tracker | None, run: Tracked) -> Generator[Follower]:
    """Give what follows a run; without a tracker it does nothing.

    A tracker that fails once the run has begun is told, and asked no more: training goes on.
    """
    if tracker is None:
        yield Follower(None)
        return
    follower = Follower(tracker.open(run))
    failed = True
    try:
        yield follower
        failed = False
    finally:
        follower.ask(lambda open: open.close(failed=failed))


class Follower:
    """Tells an open tracker what a run does."""

    def __init__(self, tracking: Tracking | None) -> None:
        self._open = tracking

    def follow(self, progress: Progress) -> None:
        """Tell of an epoch."""
        if progress.event == "epoch":
            values = dict(_of_epoch(progress))
            self.ask(lambda open: open.epoch(progress.epoch, values))

    def finish(self, bundle: Bundle, folder: Path | None) -> None:
        """Tell of the scores and of the folder."""
        card = bundle.scorecard
        scores = () if card is None else [(card.split, score) for score in card]
        values = {
            f"final/{split} {score.name} {metric}": measured["value"]
            for split, score in scores
            for metric, measured in score.metrics.items()
        }
        self.ask(lambda open: open.finish(values, folder))

    def ask(self, call: Callable[[Tracking], None]) -> None:
        """Call an open tracker, which must not end hours of training."""
        if self._open is None:
            return
        try:
            call(self._open)
        except Exception as error:  # noqa: BLE001  whatever a library or its server raises
            name = type(self._open).__name__
            logger.warning("%s failed, and the run goes on without it: %r", name, error)
            self._open = None


def _of_epoch(progress: Progress) -> Iterator[tuple[str, Number]]:
    """Yield the numbers of an epoch, grouped by what comes before a slash."""
    for name, value in progress.record().items():
        if isinstance(value, bool) or not isinstance(value, int | float) or name == "epoch":
            continue
        group, _, rest = name.partition(" ")
        yield (f"{group}/{rest}" if group in ("train", "valid") and rest else f"run/{name}"), value


def _flat(value: Any, where: str) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for at, each in enumerate(value):
            name = each.get("name", at) if isinstance(each, Mapping) else at
            yield from _flat(each, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        yield where, ", ".join(map(str, value))
    else:
        yield where, value if isinstance(value, str | int | float | bool) else str(value)
