"""Predictions without torch: onnxruntime and the bundle's vocabularies."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
import polars as pl
from safetensors import SafetensorError

from polyrank import spec
from polyrank.bundle import format
from polyrank.data.arrays import from_arrays
from polyrank.data.read import OtherFrame, collect, like, read
from polyrank.errors import BundleError, DataError, PolyrankError, did_you_mean
from polyrank.exploration import Exploration
from polyrank.features.bags import Bag
from polyrank.features.kind import Encoded
from polyrank.metrics.fusion import Fusion
from polyrank.monitor.profile import Profile
from polyrank.schema import Schema
from polyrank.serve.explore import Explored, Explorer, Precisions
from polyrank.serve.extra import require
from polyrank.serve.inputs import FEW_ROWS, ROWS_FILE, Columns, Feeds, Inputs, Lookups, together
from polyrank.serve.shared import sharing
from polyrank.terms import deviation_column

RUN_ROWS = 8192  # of one run of the graph: what is computed between stays in the cache


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a model for some rows, in torch or without it, and counts by feature."""

    outputs: Mapping[str, np.ndarray]  # the columns of `predict`: float64 (N,) each
    unseen: Mapping[str, int]  # ids not seen in training
    nulls: Mapping[str, int]
    ids: Mapping[str, int] = field(default_factory=dict)  # looked up; a bundle does not count them
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)  # of plain ids: int (N,) each
    shared: Collection[str] = ()  # inputs that all rows have from one value


class Engine:
    """Predictions of an exported bundle in any process: no torch, no numba, no server.

    They equal those of `Bundle.predict` within 1e-6 of a probability, which export has checked on
    real rows. One engine may be called from many threads.

    Args:
        path: a run folder or a bundle folder that `polyrank export` has written to.
        threads: of one run of the graph.
        shared: a folder in which processes that have the same PYTHONHASHSEED keep the look-ups of
            vocabularies, so that they are in memory once; None keeps them to this process.

    Raises:
        BundleError: not a bundle, a damaged one, or one that was not exported.
        ConfigError: fewer than 1 thread.
        PolyrankError: onnxruntime is not installed.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import polyrank as pr
        >>> from polyrank.serve.export.write import export
        >>> schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
        >>> log = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4}
        >>> bundle = pr.fit(schema, pr.Model(), train=log, epochs=1)
        >>> with TemporaryDirectory() as folder:
        ...     bundle.save(Path(folder) / "bundle")
        ...     _ = export(bundle, Path(folder) / "bundle", [pl.DataFrame({"item": [1, 2]})])
        ...     engine = pr.Engine(folder)
        >>> engine.predict({"item": [1, 2, None]}).columns
        ['p_click']
    """

    def __init__(
        self, path: str | Path, *, threads: int = 1, shared: str | Path | None = None
    ) -> None:
        spec.whole("threads", threads)  # of 0, onnxruntime would take every core
        require("onnxruntime", what="the engine")
        self.folder = format.find(Path(path))
        self.identity = format.identity(self.folder)
        format.undisturbed(self.folder, lambda: self._open(path, threads, shared))

    def _open(self, path: str | Path, threads: int, shared: str | Path | None) -> None:
        place = None if shared is None else Path(shared)
        parts = format.read(self.folder, weights=False, shared=place)
        self.manifest: Mapping[str, Any] = parts.manifest
        self.version = format.version_of(parts.manifest)
        refuse_unexported(self.manifest, path)
        with _reading(self.folder):
            self.schema = Schema.from_table(self.manifest["schema"])
            self.vocab = format.vocab_of(self.schema, parts)
            if place is not None:
                self.vocab = sharing(self.vocab, place / self.version)
            self.profile = None if parts.profile is None else Profile.from_table(parts.profile)
            weights = parts.config.get("fusion")
            self.fusion = None if weights is None else Fusion(weights)
            self.fusion_columns = tuple(self.fusion.columns(self.schema) if self.fusion else ())
            self._inputs = Inputs(self.schema, self.vocab)
        self.config = parts.config
        self.codecs = self._inputs.codecs
        self._lookups = Lookups(self.codecs)
        self._session = Session(self.folder / ROWS_FILE, threads)
        self.outputs = self._session.outputs
        self.inputs = self.schema.inputs
        with _reading(self.folder):
            precisions = Precisions.of(self.folder, self._session.about, self.schema)
            self.explorer = Explorer.of(
                self.manifest, self.schema, self.fusion, self.outputs, precisions
            )
        self._plain = precisions.fields

    @overload
    def predict(self, rows: OtherFrame) -> Any: ...
    @overload
    def predict(self, rows: Any) -> pl.DataFrame: ...
    def predict(self, rows: Any) -> Any:
        """Return the output columns of raw rows, in their order, as `Bundle.predict` does.

        Args:
            rows: a path or glob, a polars or pandas frame, a pyarrow table, or a dict of arrays,
                with or without labels.

        Raises:
            DataError: a feature that is missing or has the wrong type, or no rows.
        """
        return like(rows, pl.DataFrame(self._predict(self._columns(rows)).outputs))

    def predict_frame(self, frame: pl.DataFrame) -> Predictions:
        """Return the predictions for a frame with a column for each of `inputs`."""
        return self._predict({name: frame[name] for name in self.inputs})

    def predict_columns(
        self, columns: Mapping[str, Sequence[Any]], shared: Mapping[str, Any] | None = None
    ) -> Predictions:
        """Return the predictions for plain lists, the fastest way for a few rows.

        Args:
            columns: a list of values for each of `inputs` that is not in `shared`; others are
                ignored. Values are those of JSON: numbers, strings, booleans, None, lists.
            shared: a value for each of `inputs` that is the same in all rows.

        Raises:
            DataError: a feature that is missing or has the wrong type, columns of unequal length,
                or no rows.
        """
        return self._predict(columns, shared or {})

    def score(
        self, predictions: Predictions, columns: Mapping[str, pl.Series]
    ) -> np.ndarray | None:
        """Return the fused score, or None if the bundle declares no fusion.

        Args:
            predictions: of the rows.
            columns: the raw columns `fusion_columns` of the same rows.

        Raises:
            DataError: a column that is not numeric.

        Shape:
            float64 (N,)
        """
        if self.fusion is None:
            return None
        return self.fusion.score(self.schema, predictions.outputs, columns)

    def explore(
        self,
        predictions: Predictions,
        how: Exploration,
        columns: Mapping[str, pl.Series] = MappingProxyType({}),
        *,
        first: int = 1,
    ) -> Explored:
        """Return rows ranked by more than their mean: see `docs/exploration.md`.

        Args:
            predictions: of the rows that compete, such as the candidates of one request.
            how: such as `Thompson(seed=…)`.
            columns: as in `score`.
            first: K of the propensities, which are of being among the first K rows.

        Raises:
            ConfigError: a bundle that was exported without deviations; an output to rank by that
                exploration does not move; propensities that would take too long.
            DataError: a column that is not numeric.
        """
        spec.whole("first", first)
        return self.explorer.explored(
            how, predictions.outputs, columns, first, predictions.rows, predictions.shared
        )

    def _columns(self, rows: Any) -> Mapping[str, Sequence[Any] | pl.Series]:
        """Return one column per input; lists stay lists."""
        if isinstance(rows, Mapping):
            rows = {str(name): values for name, values in rows.items()}
            if any(name not in rows for name in self.inputs):
                return rows  # refused later, with the names given
            chosen = {name: _as_list(rows[name]) for name in self.inputs}
            if all(type(values) is list for values in chosen.values()):
                return chosen
            return from_arrays(chosen).to_dict()
        frame = rows if isinstance(rows, pl.DataFrame) else read(rows, self.schema)
        if isinstance(frame, pl.LazyFrame) or set(self.inputs) - set(frame.columns):
            frame = collect(frame, self.inputs)
        return {name: frame[name] for name in self.inputs}

    def _predict(
        self,
        columns: Mapping[str, Sequence[Any] | pl.Series],
        shared: Mapping[str, Any] = MappingProxyType({}),
    ) -> Predictions:
        for name in self.inputs:
            if name not in columns and name not in shared:
                given = [*columns, *shared]
                raise DataError(f"column {name!r} is not in the data{did_you_mean(name, given)}")
        rows = _rows(columns)
        every: dict[str, Sequence[Any] | pl.Series] = {}
        once: dict[str, Sequence[Any] | pl.Series] = {}
        for name, codec in self.codecs.items():
            raw = codec.feature.columns
            if len(raw) > 1:  # read together
                given = columns.keys() & set(raw)
                length = rows if given else 1
                parts = {n: columns[n] if n in given else [shared[n]] * length for n in raw}
                (every if given else once)[name] = together(codec.feature, parts)
            elif name not in shared:
                every[name] = columns[name]
            elif name in self._lookups.together:
                every[name] = [shared[name]] * rows  # cheaper than a separate look-up
            else:
                once[name] = [shared[name]]
        found = self._lookups(every)
        for name, (values, ids, unseen, nulls) in self._lookups(once).items():
            every_row = values if isinstance(values, Bag) else np.repeat(values, rows, axis=0)
            found[name] = Encoded(every_row, ids * rows, unseen * rows, nulls * rows)
        inputs = self._inputs.columns(rows, found)
        outputs = self._session.run_columns(inputs)
        if any(np.isnan(each).any() for each in outputs.values()):
            broken = np.any([np.isnan(each) for each in outputs.values()], axis=0)
            raise DataError(
                f"{int(broken.sum()):,} of {rows:,} rows have no finite prediction (the "
                f"first is row {int(broken.argmax())}): a dense feature is too far from its "
                "training values; clip such values"
            )
        plain: dict[str, np.ndarray] = {}
        for name in self._plain:
            values = inputs.values.get(name)
            if isinstance(values, np.ndarray) and values.dtype.kind == "i":  # no number in bins
                plain[name] = values
        return Predictions(outputs, inputs.unseen, inputs.nulls, inputs.ids, plain, tuple(shared))


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Raise a BundleError where a part of a bundle cannot be read."""
    try:
        yield
    except (PolyrankError, OSError, SafetensorError) as error:
        raise BundleError(f"the bundle {folder} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"the bundle {folder} is damaged: bundle.json: {error!r}") from error


def refuse_unexported(manifest: Mapping[str, Any], path: str | Path) -> None:
    """Raise a BundleError if a manifest has no exported model; `path` is what was asked for."""
    exported = manifest.get("onnx")
    if not isinstance(exported, Mapping) or ROWS_FILE not in exported:
        raise BundleError(
            f"{path} has no {ROWS_FILE}: run `polyrank export {path}` where torch is installed"
        )


def _as_list(values: Any) -> Any:
    """Turn a short array of numbers into a list, which is looked up faster."""
    plain = isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf"
    return values.tolist() if plain and len(values) <= FEW_ROWS else values


def _rows(columns: Mapping[str, Sequence[Any] | pl.Series]) -> int:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        shown = ", ".join(f"{name!r}: {len(values):,}" for name, values in columns.items())
        raise DataError(f"the columns must have one length, got {shown}")
    if not lengths or lengths == {0}:
        raise DataError("there are no rows to predict")
    return lengths.pop()


def deviations_exported(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of deviations that a manifest's exported model gives behind the others."""
    given = manifest["onnx"][ROWS_FILE]["differences"]
    tasks = Schema.from_table(manifest["schema"]).tasks
    return tuple(name for name in map(deviation_column, tasks) if name in given)


class Session:
    """An exported file, or its bytes, in onnxruntime on the CPU; threads may share it.

    Attributes:
        about: what the file says of itself, by `polyrank.…`.
    """

    def __init__(self, source: Path | bytes, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only; they are raised as well
        loaded = source if isinstance(source, bytes) else str(source)
        try:
            self._session = onnxruntime.InferenceSession(
                loaded, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  onnxruntime's errors have no common base
            where = "the exported model" if isinstance(source, bytes) else str(source)
            raise BundleError(f"{where} cannot be loaded by onnxruntime: {error}") from None
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self._expected = frozenset(self.inputs)
        self.outputs = tuple(each.name for each in self._session.get_outputs())
        written = self._session.get_modelmeta().custom_metadata_map
        self.about = {
            name: json.loads(text) for name, text in written.items() if name.startswith("polyrank.")
        }

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Return the outputs by name, in order: float64 (B,) each.

        Raises:
            BundleError: inputs that are not those of the file.
        """
        if feeds.keys() != self._expected:
            unlike = sorted(feeds.keys() ^ self._expected)
            raise BundleError(f"the bundle and its exported model read different inputs: {unlike}")
        found = self._session.run(None, dict(feeds))
        return {name: np.asarray(each) for name, each in zip(self.outputs, found, strict=True)}

    def run_columns(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the outputs of all rows, some thousand at a time."""
        parts = [self.run(feeds) for feeds in columns.batches(RUN_ROWS)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
