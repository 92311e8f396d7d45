"""MLflow: a run in an experiment of a server or of a local database."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polyrank.errors import ConfigError
from polyrank.files import replacing
from polyrank.train.track.tracker import Number, Tracked, Tracker, Tracking

RUN = "mlflow-run.txt"  # in the run folder: the run that a resumed training goes on with
SQLITE = "sqlite:///"
ARTIFACTS = "mlartifacts"
LONGEST = 6000  # letters of a parameter's value
AT_ONCE = 100  # parameters; of metrics it is 1000
_UNKNOWN = re.compile(r"[^\w\-. /]")


@dataclass(frozen=True, kw_only=True)
class MLflow(Tracker):
    """Parameters, metrics an epoch, final scores and, as artifacts, what the run folder holds.

    Args:
        uri: of the tracking server, or sqlite:///PATH; None is what MLFLOW_TRACKING_URI says.
        experiment: its name there; it is made where there is none.
        bundle: whether the bundle is an artifact too.

    Examples:
        >>> MLflow(uri="sqlite:///mlflow.db").experiment
        'polyrank'
    """

    uri: str | None = None
    experiment: str = "polyrank"
    bundle: bool = True

    def __post_init__(self) -> None:
        if not self.experiment:
            raise ConfigError("experiment must be the name of an experiment, got an empty one")

    def require(self) -> None:
        if find_spec("mlflow") is None:
            raise ConfigError("track = 'mlflow' needs mlflow: pip install 'polyrank[track]'")

    def open(self, run: Tracked) -> Tracking:
        from mlflow import MlflowClient

        try:
            client = MlflowClient(tracking_uri=self.uri)
            return _Run(client, self, self._experiment(client), run)
        except Exception as error:
            where = "MLflow" if self.uri is None else f"MLflow at {self.uri}"
            raise ConfigError(
                f"track: {where} cannot be used: {(str(error) or repr(error)).splitlines()[0]}"
            ) from error

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return found.experiment_id
        location = None
        if self.uri is not None and self.uri.startswith(SQLITE):
            # Else they would lie in whatever folder a command is started in.
            database = Path(self.uri.removeprefix(SQLITE)).absolute()
            location = (database.parent / ARTIFACTS).as_uri()
        return client.create_experiment(self.experiment, artifact_location=location)


class _Run(Tracking):
    def __init__(self, client: Any, spec: MLflow, experiment: str, run: Tracked) -> None:
        self._client, self._spec = client, spec
        self._record = None if run.folder is None else run.folder / RUN
        before = None
        if self._record is not None and self._record.is_file():
            before = self._record.read_text(encoding="utf-8").strip()
        if before:
            self.id = before
            client.update_run(self.id, status="RUNNING")
            return
        self.id = client.create_run(experiment, run_name=run.name).info.run_id
        if self._record is not None:
            with replacing(self._record) as temporary:
                temporary.write_text(f"{self.id}\n", encoding="utf-8")
        self._parameters(run.parameters)

    def _parameters(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        given = [Param(plain(key), str(value)[:LONGEST]) for key, value in values.items()]
        for start in range(0, len(given), AT_ONCE):
            self._client.log_batch(self.id, params=given[start : start + AT_ONCE])

    def _metrics(self, values: Mapping[str, Number], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found: Sequence[Any] = [Metric(plain(k), float(v), now, step) for k, v in values.items()]
        self._client.log_batch(self.id, metrics=found)

    def epoch(self, number: int, values: Mapping[str, Number]) -> None:
        self._metrics(values, number)

    def finish(self, values: Mapping[str, Number], folder: Path | None) -> None:
        self._metrics(values, 0)
        if folder is None:
            return
        for name in ("config.toml", "log.jsonl", "scorecard.json"):
            if (folder / name).is_file():
                self._client.log_artifact(self.id, str(folder / name))
        if self._spec.bundle:
            self._client.log_artifacts(self.id, str(folder / "bundle"), "bundle")

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


def plain(name: str) -> str:
    """Return a name with the letters that MLflow allows.

    Examples:
        >>> plain("valid/buy|click @ click auc")
        'valid/buy given click in click auc'
    """
    return _UNKNOWN.sub("_", name.replace("|", " given ").replace(" @ ", " in "))
