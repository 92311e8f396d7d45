"""An exported bundle on the workers of a cluster: loaded once a process, fed with Arrow batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl
import pyarrow as pa

from polyrank import spec
from polyrank.bundle import format
from polyrank.data import checksums
from polyrank.errors import BundleError, ConfigError, DataError, did_you_mean
from polyrank.schema import Schema
from polyrank.serve.engine import Engine, deviations_exported, refuse_unexported


@dataclass(frozen=True)
class Exported:
    """What the process that hands out the work knows of a bundle, and tells the workers.

    Args:
        folder: of the bundle where the workers find it.
        checksum: of the bundle's manifest; a worker with another bundle refuses to score.
        inputs: the columns that the model reads.
        keys: the key columns of the schema.
        outputs: the columns of the predictions, float64 each.
        threads: of one engine.
    """

    folder: str
    checksum: str
    inputs: tuple[str, ...]
    keys: tuple[str, ...]
    outputs: tuple[str, ...]
    threads: int

    @classmethod
    def of(cls, bundle: str | Path, on_workers: str | None, threads: int) -> Exported:
        """Read a bundle's manifest, and nothing else of it.

        Args:
            bundle: a run folder or a bundle folder that `polyrank export` has written to.
            on_workers: where the workers find either of them; the same absolute path by default.
            threads: of one engine.

        Raises:
            BundleError: not a bundle, or one that was not exported.
            ConfigError: a bundle in memory, or fewer than 1 thread.
        """
        if not isinstance(bundle, str | Path):
            raise ConfigError(
                f"workers load a bundle from its folder, got {type(bundle).__name__}: save it, run "
                "`polyrank export` on it, and give the folder"
            )
        spec.whole("threads", threads)
        folder = format.find(Path(bundle))
        manifest = format.read_manifest(folder)
        refuse_unexported(manifest, bundle)
        schema = Schema.from_table(manifest["schema"])
        return cls(
            folder=on_workers or str(folder.absolute()),
            checksum=_checksum(folder),
            inputs=tuple(schema.inputs),
            keys=tuple(schema.keys.columns),
            outputs=(*schema.outputs, *deviations_exported(manifest)),
            threads=threads,
        )

    def engine(self, folder: str | Path | None = None) -> Engine:
        """Return this process's engine, which is loaded at the first call.

        Args:
            folder: where it lies on this machine, if it is not `self.folder`.

        Raises:
            BundleError: a bundle other than that of `of`, or none.
        """
        return _engine(str(folder or self.folder), self.checksum, self.threads)

    def kept(self, columns: Sequence[str], keep: Sequence[str] | None) -> list[str]:
        """Return the columns to keep of those that a batch has: the keys, unless others are named.

        Raises:
            DataError: a column that the batch does not have, or that is named as an output.
        """
        if keep is None:
            return [name for name in self.keys if name in columns]
        for name in keep:
            if name not in columns:
                hint = did_you_mean(name, columns)
                raise DataError(f"column {name!r} of keep is not in the data{hint}")
            if name in self.outputs:
                raise DataError(
                    f"column {name!r} of the data has the name of an output: rename it, or leave "
                    "it out of keep"
                )
        return list(dict.fromkeys(keep))


def predict(engine: Engine, batch: pa.Table | pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the predictions for the rows of a batch: one float64 array per output.

    Raises:
        DataError: a feature that is missing or has the wrong type.
    """
    if not batch.num_rows:
        return {name: pa.array([], pa.float64()) for name in engine.outputs}
    columns = batch.schema.names
    for name in engine.inputs:
        if name not in columns:
            raise DataError(f"column {name!r} is not in the data{did_you_mean(name, columns)}")
    frame = pl.DataFrame(batch.select(list(engine.inputs)))
    return {name: pa.array(each) for name, each in engine.predict_frame(frame).outputs.items()}


@lru_cache(maxsize=4)  # a job may compare bundles; a worker that outlives many keeps few of them
def _engine(folder: str, checksum: str, threads: int) -> Engine:
    engine = Engine(folder, threads=threads)
    if _checksum(engine.folder) != checksum:
        raise BundleError(
            f"the bundle {engine.folder} on this worker is not the one that the work was handed "
            "out with: copy that one to all workers"
        )
    return engine


def _checksum(folder: Path) -> str:
    (found,) = checksums.of_files([str(folder / format.MANIFEST)])
    return found
