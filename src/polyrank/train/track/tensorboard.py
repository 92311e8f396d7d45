"""TensorBoard: event files in the run folder, which `tensorboard --logdir runs` shows together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tomli_w

from polyrank.errors import ConfigError
from polyrank.train.track.tracker import Number, Tracked, Tracker, Tracking

FOLDER = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracker):
    """Curves, the configuration as text, and hyper-parameters beside the final scores.

    Examples:
        >>> from polyrank.train.track import tracker_of
        >>> tracker_of("tensorboard")
        TensorBoard()
    """

    def require(self) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "track = 'tensorboard' needs tensorboard: pip install 'polyrank[track]'"
            )

    def open(self, run: Tracked) -> Tracking:
        if run.folder is None:
            raise ConfigError("track = 'tensorboard' writes into the run folder: give out as well")
        return _Events(run)


class _Events(Tracking):
    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        assert run.folder is not None
        self._parameters = run.parameters
        self._writer = SummaryWriter(str(run.folder / FOLDER))
        text = tomli_w.dumps(dict(run.config))
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # a block of code
        self._writer.add_text("config", indented, 0)

    def epoch(self, number: int, values: Mapping[str, Number]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def finish(self, values: Mapping[str, Number], folder: Path | None) -> None:
        from torch.utils.tensorboard.summary import hparams

        for name, value in values.items():
            self._writer.add_scalar(name, value)
        # The writer's own `add_hparams` puts them into another run.
        writer = self._writer.file_writer
        assert writer is not None  # it is closed last
        for each in hparams(self._parameters, dict(values)):
            writer.add_summary(each)

    def close(self, *, failed: bool) -> None:
        self._writer.close()
