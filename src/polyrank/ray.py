"""Ray: an exported bundle over a Ray dataset, and training on the workers of a Ray cluster.

    scored = polyrank.ray.predict("runs/first", ray.data.read_parquet("log/"))
    bundle = polyrank.ray.train("experiment.toml", workers=4)

See docs/scale.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from polyrank import spec
from polyrank.errors import PolyrankError, TrainingError
from polyrank.serve.batch import CHUNK_ROWS
from polyrank.serve.extra import require
from polyrank.serve.workers import Exported
from polyrank.serve.workers import predict as predict_batch

if TYPE_CHECKING:
    from ray.data import Dataset

    from polyrank.bundle.model import Bundle
    from polyrank.config import Experiment


def predict(
    bundle: str | Path,
    dataset: Dataset,
    *,
    keep: Sequence[str] | None = None,
    workers: int | None = None,
    threads: int = 1,
    batch_rows: int = CHUNK_ROWS,
    on_workers: str | None = None,
) -> Dataset:
    """Return a Ray dataset of predictions, computed by one engine an actor, without torch.

    The predictions are those of `polyrank predict` within 1e-6. Like any Ray dataset, it is
    computed when it is read or written. Rows keep their order where Ray is told to preserve it
    (`DataContext.execution_options.preserve_order`); their keys are kept in any case.

    Args:
        bundle: a run folder or a bundle folder that `polyrank export` has written to.
        dataset: the rows, with a column for each of the bundle's inputs.
        keep: the columns to keep beside the predictions; the bundle's key columns by default.
        workers: actors at most; by default as many as there is work and room for. Ray starts with
            one. Each takes a CPU, and reading the rows takes CPUs too.
        threads: of one engine, and CPUs of its actor.
        batch_rows: rows of a batch at most; Ray cuts batches at the ends of its blocks.
        on_workers: where the workers find the bundle; by default the absolute path of `bundle`,
            which is then on a disk that all workers share.

    Raises:
        BundleError: not a bundle, or one that was not exported.
        PolyrankError: ray is not installed.

    Examples:
        >>> import polyrank.ray
        >>> rows = ray.data.read_parquet("log/")  # doctest: +SKIP
        >>> polyrank.ray.predict("runs/first", rows).write_parquet("scored/")  # doctest: +SKIP
    """
    require("ray", what="polyrank.ray", extra="ray")
    from ray.data import ActorPoolStrategy

    exported = Exported.of(bundle, on_workers, threads)
    return dataset.map_batches(
        Scorer,
        fn_constructor_args=(exported, None if keep is None else tuple(keep)),
        # A fixed number of actors could take every CPU, and Ray would then wait for ever for one
        # to read the rows with.
        compute=ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=threads,
        batch_format="pyarrow",
        batch_size=batch_rows,
    )


class Scorer:
    """What an actor holds: the engine, loaded once."""

    def __init__(self, exported: Exported, keep: Sequence[str] | None) -> None:
        self._exported, self._keep = exported, keep
        self._engine = exported.engine()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the columns to keep and the predictions of a batch."""
        kept = self._exported.kept(batch.column_names, self._keep)
        columns: dict[str, Any] = {name: batch[name] for name in kept}
        return pa.table(columns | predict_batch(self._engine, batch))


def train(
    experiment: str | Path | Experiment,
    *,
    workers: int,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
) -> Bundle:
    """Train an experiment on the workers of a Ray cluster; return the bundle of its run folder.

    Ray Train starts the workers and joins them to a `torch.distributed` group; in each of them runs
    what `polyrank train` runs.

    Args:
        experiment: a TOML file, or an experiment. Its data lies where every worker finds it.
        workers: processes; each takes a CPU.
        out: the run folder, on a disk that all workers share; runs/NAME by default.
        resume: continue the run in that folder.
        force: replace the run in that folder.

    Raises:
        ConfigError: an experiment that is refused, fewer than 1 worker, or a folder that exists.
        TrainingError: a worker that failed for another reason than those of `polyrank train`.
        PolyrankError: ray is not installed.

    Examples:
        >>> import polyrank.ray
        >>> bundle = polyrank.ray.train("experiment.toml", workers=4)  # doctest: +SKIP
    """
    require("ray", what="polyrank.ray", extra="ray")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from polyrank.bundle.model import load
    from polyrank.config import Experiment

    spec.whole("workers", workers)
    loaded = experiment if isinstance(experiment, Experiment) else Experiment.load(experiment)
    folder = Path(out or Path("runs") / loaded.name).absolute()
    with TemporaryDirectory() as own:  # of Ray Train, whose checkpoints are not ours
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "experiment": loaded.to_toml(),
                "options": {"out": str(folder), "resume": resume, "force": force},
            },
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=False),
            run_config=RunConfig(storage_path=own, failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _told(error) from error
    return load(folder)


def _train_worker(given: Mapping[str, Any]) -> None:
    from polyrank.config import Experiment

    Experiment.from_text(given["experiment"]).fit(**given["options"])


def _told(error: Exception) -> PolyrankError:
    """Return the first worker's own refusal, else one that names what went wrong."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        # Ray 2.51 wraps the original in an exception of its own; Ray 2.60 gives the original.
        for each in (failure, failure.__cause__, getattr(failure, "_base_exc", None)):
            if isinstance(each, PolyrankError):
                return each
    first = next(iter(failures.values()), error)
    return TrainingError(f"a worker of Ray failed: {first}")
