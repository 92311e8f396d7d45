"""What answers under which name, and how one bundle takes the place of another.

A request takes a `Loaded` once and keeps it to its end, so it is answered by one bundle from its
columns to its numbers. Replacing is one assignment; the bundle before is freed with its last
request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from time import sleep

from polyrank.bundle import format
from polyrank.errors import ConfigError, PolyrankError
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.engine import Engine

DEFAULT = "default"  # the name of a bundle that was given none
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
# Between two renames of a folder there is none for some microseconds.
_ABSENT_TRIES, _ABSENT_S = 20, 0.05


@dataclass(frozen=True, eq=False)
class Loaded:
    """A bundle in memory, under the name by which it is served."""

    name: str
    engine: Engine
    scorer: Scorer

    @property
    def version(self) -> str:
        """A name for the bundle's content."""
        return self.engine.version


class Model:
    """One bundle after another under one name.

    Args:
        name: in the paths of its routes, the metrics and the log.
        engine: the first one.
        most_rows: of a request.
        path: where later ones are looked for, a run folder or a bundle folder; None for an engine
            that is never replaced.
        threads: of one run of a graph of the later ones.
        shared: where the look-ups of the later ones are shared with other processes.

    Raises:
        ConfigError: a name that is no segment of a path.
    """

    def __init__(
        self, name: str, engine: Engine, most_rows: int, *, path: Path | None = None,
        threads: int = 1, shared: Path | None = None,
    ) -> None:  # fmt: skip
        if not _NAME.match(name):
            raise ConfigError(
                f"the name of a model must be 1 to 64 letters, digits, '.', '_' or '-', and begin "
                f"with a letter or a digit, got {name!r}"
            )
        self.name, self.path = name, path
        self._most_rows, self._threads, self._shared = most_rows, threads, shared
        self.current = self._loaded(engine)
        # Of the bundle that was tried last. What is on the disk now may be newer than the engine.
        self._tried = None if path is None else engine.identity

    @property
    def changed(self) -> bool:
        """Whether there is a bundle that was not tried yet."""
        if self.path is None:
            return False
        return (found := _identity(self.path)) is not None and found != self._tried

    def reload(self) -> bool:
        """Load what is on the disk beside what answers, and let it answer from now on.

        It may be called from any thread, one at a time. What answers goes on until then, and after
        a refusal.

        Returns:
            Whether another bundle answers now; False where it is the same one, to the byte.

        Raises:
            PolyrankError: the bundle is refused: damaged, not exported, or it cannot predict.
        """
        if self.path is None:
            raise ConfigError(f"model {self.name!r} was not read from a folder: there is no other")
        for _ in range(_ABSENT_TRIES):
            if _identity(self.path) is not None:
                break
            sleep(_ABSENT_S)
        self._tried = _identity(self.path)
        engine = warm(self.path, self._threads, self._shared)
        if engine.version == self.current.version:
            return False
        self.current = self._loaded(engine)
        return True

    def _loaded(self, engine: Engine) -> Loaded:
        return Loaded(self.name, engine, Scorer(engine, self._most_rows))


class Models(Mapping[str, Model]):
    """The models of a server by name; `first` answers where none is named.

    Raises:
        ConfigError: no model, or two of one name.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ConfigError("a server needs a model, got none")
        self._models = {each.name: each for each in models}
        if len(self._models) < len(models):
            names = [each.name for each in models]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(
                f"two models are called {twice!r}: name each bundle, as in "
                "`polyrank serve old=RUN new=RUN`"
            )
        self.first = models[0]
        self.shared: Path | None = None

    @classmethod
    def open(
        cls, runs: Sequence[str], most_rows: int, threads: int = 1, shared: Path | None = None
    ) -> Models:
        """Load bundles from folders, each given as FOLDER or NAME=FOLDER."""
        opened = []
        for name, path in map(named, runs):
            engine = warm(path, threads, shared)
            model = Model(name, engine, most_rows, path=path, threads=threads, shared=shared)
            opened.append(model)
        found = cls(opened)
        found.shared = shared
        return found

    def tidy(self) -> None:
        """Remove what was shared of bundles before those that answer; what is mapped stays so."""
        if self.shared is None:
            return
        mine = [self.shared / each.current.version for each in self.values()]
        with suppress(OSError):
            oldest = min(each.stat().st_mtime_ns for each in mine)
            for folder in self.shared.iterdir():
                if folder not in mine and folder.stat().st_mtime_ns < oldest:
                    rmtree(folder, ignore_errors=True)

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def warm(path: Path, threads: int, shared: Path | None) -> Engine:
    """Return the engine of a bundle, which has predicted once.

    The first run of a graph allocates what the others use, look-ups are made when they are needed,
    and a bundle that cannot predict at all is found before its first request.
    """
    engine = Engine(path, threads=threads, shared=shared)
    engine.predict_columns({name: [None] for name in engine.inputs})
    return engine


def named(run: str) -> tuple[str, Path]:
    """Return the name and the folder of NAME=FOLDER, or of FOLDER.

    Examples:
        >>> name, folder = named("new=runs/a")
        >>> name, folder.as_posix()
        ('new', 'runs/a')
        >>> named("runs/a")[0]
        'default'
    """
    name, equals, folder = run.partition("=")
    if not equals or Path(run).exists() or "/" in name:
        return DEFAULT, Path(run)
    return name, Path(folder)


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        return format.identity(format.find(path))
    except PolyrankError:
        return None
