"""How far a long loop is: loops count what they have done, and a bar shows it if somebody watches.

A loop says so by `metered`, wherever it is, as it would log; without a watcher it costs nothing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
PATIENCE_S = 0.5  # that a loop has taken before it is shown
NAMED = 40  # letters of what a bar is of, on a narrow terminal
WIDE = 110  # columns of a terminal that has room for the last metrics


@dataclass(frozen=True)
class Stage:
    """How far a loop is.

    Args:
        what: it does: "scoring rows".
        done: how many are done.
        total: of how many; None where nobody knows.
        unit: of what.
        seconds: it has taken.
        ended: whether it is over.
    """

    what: str
    done: int
    total: int | None
    unit: str
    seconds: float
    ended: bool = False

    @property
    def rate(self) -> str:
        """Rows a second, or how many of how many."""
        if self.unit == "rows":
            return f"{self.done / self.seconds:,.0f} rows/s" if self.seconds > 0 else ""
        return f"{self.done:,} of {self.total:,}" if self.total is not None else f"{self.done:,}"


Watcher = Callable[[Stage], None]


@dataclass
class _Watch:
    watcher: Watcher
    busy: bool = False  # within a loop that is watched: loops inside it are its steps


_WATCH: ContextVar[_Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watcher: Watcher) -> Generator[None]:
    """Tell a watcher of the outermost loops that are metered meanwhile, in this thread.

    Examples:
        >>> seen = []
        >>> with watched(lambda stage: seen.append(stage.done)):
        ...     for _ in metered("abc", "spelling", unit="letters"):
        ...         pass
        >>> seen
        [0, 1, 2, 3, 3]
    """
    token = _WATCH.set(_Watch(watcher))
    try:
        yield
    finally:
        _WATCH.reset(token)


def metered(
    items: Iterable[T],
    what: str,
    *,
    unit: str = "rows",
    total: int | None = None,
    size: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Yield items, and tell whoever watches how many are done.

    Args:
        items: each is done when the next one is asked for.
        what: the loop does.
        unit: of what is counted.
        total: of it; that of a list by default, if its items count once.
        size: how many an item counts for; None is one.
    """
    watch = _WATCH.get()
    if watch is None or watch.busy:
        yield from items
        return
    if total is None and size is None and isinstance(items, Sized):
        total = len(items)
    watch.busy, begun, done = True, perf_counter(), 0
    try:
        watch.watcher(Stage(what, 0, total, unit, 0.0))
        for item in items:
            yield item
            done += 1 if size is None else size(item)
            watch.watcher(Stage(what, done, total, unit, perf_counter() - begun))
    finally:
        watch.busy = False
        watch.watcher(Stage(what, done, total, unit, perf_counter() - begun, ended=True))


def watching() -> bool:
    """Whether anybody watches, so that a total is worth a look."""
    return _WATCH.get() is not None


class Bar:
    """A bar on stderr with a rate, the time that remains and a note; nothing where it is piped."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=max(10, min(40, console.width - 62))),
            TextColumn("{task.fields[share]}"),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, share="", rate="", note="")

    def show(self, what: str, done: int, total: int | None, rate: str = "", note: str = "") -> None:
        """Show how far something is; without a total the bar moves to and fro."""
        if self.console.width < WIDE:
            what, note = what if len(what) <= NAMED else f"{what[: NAMED - 1]}…", ""
        (task,) = self._progress.tasks
        if total != task.total:  # something else begins, whose time is its own
            self._progress.reset(self._task)
            task.total = total  # an update could not take it away
        self._progress.update(
            self._task, description=what, completed=done, rate=rate, note=note,
            share=f"{done / total:4.0%}" if total else "",
        )  # fmt: skip

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def drawn(self) -> Generator[None]:
        """Draw it meanwhile; what is logged to stderr has lines of its own above it."""
        stderr = sys.stderr
        with self._progress:
            # Rich has put a stream in stderr's place; handlers still hold the one beneath the bar.
            handlers = [
                each
                for logger in (logging.getLogger(), logging.getLogger("polyrank"))
                for each in logger.handlers
                if isinstance(each, logging.StreamHandler) and each.stream is stderr
            ]
            for handler in handlers:
                handler.setStream(sys.stderr)
            try:
                yield
            finally:
                for handler in handlers:
                    handler.setStream(stderr)


@contextmanager
def bar(name: str) -> Generator[Bar]:
    """Give a bar on stderr that also shows metered loops."""
    from rich.console import Console

    found = Bar(Console(stderr=True))
    found.show(name, 0, None)

    def watch(stage: Stage) -> None:
        if stage.ended:  # what comes next is not counted
            found.show(name, 0, None)
        else:
            found.show(f"{name} · {stage.what}", stage.done, stage.total, stage.rate)

    with found.drawn(), watched(watch):
        yield found


@contextmanager
def bars() -> Generator[None]:
    """Draw a bar for each metered loop that takes its time, if stderr is a terminal.

    Between loops nothing is drawn, so that what is printed then is not disturbed.
    """
    opened = ExitStack()
    found: list[Bar] = []

    def watch(stage: Stage) -> None:
        if stage.ended:
            opened.close()
            found.clear()
        elif found or stage.seconds >= PATIENCE_S:
            if not found:
                from rich.console import Console

                found.append(Bar(Console(stderr=True)))
                opened.enter_context(found[0].drawn())
            found[0].show(stage.what, stage.done, stage.total, stage.rate)

    with opened, watched(watch) if sys.stderr.isatty() else ExitStack():
        yield
