"""From a bundle to ONNX: one capture, held to the bundle's own answers on real rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import polars as pl
import torch
from onnx import ModelProto

from polyrank.bundle import format
from polyrank.bundle.model import Bundle
from polyrank.calibration.fitting import Calibrator
from polyrank.calibration.maps import Isotonic, Platt
from polyrank.errors import BundleError, ExportError
from polyrank.features import SequenceFeature
from polyrank.serve import graph
from polyrank.serve.inputs import RAW_FILE, ROWS_FILE, Columns, described, encoded, raw
from polyrank.serve.session import Session
from polyrank.serve.twin import Twin, example
from polyrank.terms import output_columns

logger = logging.getLogger(__name__)

# The largest difference of a probability as it was learnt, which is one of 4e-6 of its logit. A
# calibration map of slope s makes s times as much of it: no float32 network could be held to less.
PROBABILITY = 1e-6
REGRESSION = 1e-5  # that of a regression, in deviations of its training target
OPSET = 18  # of the operators: what every torch ≥ 2.6 writes and onnxruntime ≥ 1.20 reads
_RUN_ROWS = 8192  # lists are filled up to the longest of so many rows
FILES = (ROWS_FILE, RAW_FILE)
_LARGEST_BYTES = 1_500_000_000  # a protobuf holds 2 GiB; above, tensors lie in a file beside it


@dataclass
class Parity:
    """How far an exported file is from the bundle on the same rows.

    Args:
        rows: that were compared.
        largest: the largest difference of each output, in its own unit.
        allowed: the largest that is let through, by output.
    """

    allowed: Mapping[str, float]
    rows: int = 0
    largest: dict[str, float] = field(default_factory=dict)

    def compare(self, found: Mapping[str, np.ndarray], expected: pl.DataFrame) -> None:
        """Take more rows into account."""
        self.rows += expected.height
        for name in self.allowed:
            off = np.abs(found[name] - expected[name].to_numpy())
            # of a NaN there is no difference, and it is one
            off = float("inf") if np.isnan(off).any() else float(off.max(initial=0))
            self.largest[name] = max(self.largest.get(name, 0.0), off)

    def check(self, what: str) -> None:
        """Refuse answers that are further off than is allowed.

        Raises:
            ExportError: the worst output, or no rows.
        """
        if not self.rows:
            raise ExportError(f"{what}: there were no rows to compare")
        worst = max(self.allowed, key=lambda name: self.largest[name] / self.allowed[name])
        if self.largest[worst] > self.allowed[worst]:
            raise ExportError(
                f"{what} does not answer as the bundle does: {worst!r} differs by up to "
                f"{self.largest[worst]:.3g} on {self.rows:,} rows, and at most "
                f"{self.allowed[worst]:.3g} is allowed: nothing was exported"
            )


def export(
    bundle: Bundle,
    folder: Path,
    chunks: Iterable[pl.DataFrame],
    *,
    vocabulary: bool = False,
) -> dict[str, Parity]:
    """Write a bundle's ONNX files into its folder, if they answer as the bundle does.

    `model.onnx` takes rows of the vocabularies and raw numbers. Encodings, calibrators and products
    are inside; a correction for down-sampled negatives belongs to the loss, so there is none.

    Args:
        bundle: what is exported.
        folder: of the bundle.
        chunks: real rows, raw, on which both are compared.
        vocabulary: write `model-with-vocabulary.onnx` too, which takes the ids themselves.

    Returns:
        The parity of each file by name, which the bundle's manifest has as well.

    Raises:
        ExportError: a trunk that cannot be captured, a hashed feature where the vocabulary is to be
            inside, an output that a feature is named like, or answers that differ.
        DataError: rows that cannot be read.
        BundleError: a folder that cannot be written to.

    Reference:
        PyTorch, `torch.export` and its ONNX exporter; the operators are those of onnx.ai.
    """
    names = [feature.name for feature in bundle.schema.features]
    outputs = [column for task in bundle.schema.tasks for column in output_columns(task)]
    for name in outputs:
        if name in names:
            raise ExportError(
                f"feature {name!r} is named like an output, and a graph has a name once: rename "
                "the column or the task"
            )
    try:
        with TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            files = _written(bundle, Path(temporary), vocabulary=vocabulary)
            sessions = {name: files[name] for name in FILES if name in files}
            parity = _compared(bundle, sessions, chunks)
            entries = {
                name: {
                    "rows": each.rows, "differences": each.largest, "allowed": dict(each.allowed)
                }
                for name, each in parity.items()
            }  # fmt: skip
            former = [name for each in FILES for name in (each, _beside(each))]
            format.add(folder, files, {"onnx": entries}, instead_of=former)
    except OSError as error:
        raise BundleError(f"the bundle {folder} could not be written: {error}") from error
    return parity


def captured(bundle: Bundle) -> ModelProto:
    """Return the graph of `model.onnx`.

    Raises:
        ExportError: a trunk that `torch.export` or the ONNX exporter refuses.
    """
    twin, schema = Twin(bundle), bundle.schema
    batch = torch.export.Dim("batch")
    shapes = [
        {0: batch, 1: torch.export.Dim(f"length_{at}")}
        if isinstance(feature, SequenceFeature)
        else {0: batch}
        for at, feature in enumerate(schema.features)
    ]
    inputs = example(schema, bundle.vocab.rows, rows=3, length=4)
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    try:
        noisy.setLevel(logging.ERROR)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, of its own parts
            program = torch.export.export(twin, (inputs,), dynamic_shapes=(shapes,), strict=False)
            # Its optimiser takes a constant below 1e-8 for 0, such as the mean of tiny numbers, and
            # leaves the operation out. onnxruntime does what is safe of it when it loads the file.
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=False, opset_version=OPSET
            )
    except Exception as error:  # whatever a trunk of one's own makes of it
        kind = type(bundle.ranker.trunk).__name__
        raise ExportError(f"trunk {kind} cannot be exported: {_first_line(error)}") from error
    finally:
        noisy.setLevel(level)
    assert exported is not None
    outputs = [column for task in schema.tasks for column in output_columns(task)]
    model = exported.model_proto
    graph.named(model, [each.name for each in schema.features], outputs)
    graph.with_shapes(model, schema)
    return model


def _written(bundle: Bundle, folder: Path, *, vocabulary: bool) -> dict[str, Path]:
    """Write the models; return their files by name, those of large tensors too."""
    schema, vocab = bundle.schema, bundle.vocab
    outputs = [column for task in schema.tasks for column in output_columns(task)]
    about = {"polyrank.schema": schema.to_table(), "polyrank.outputs": outputs}
    model = captured(bundle)
    files: dict[str, Path] = {}
    for name in FILES[: 1 + vocabulary]:
        if name == RAW_FILE:
            # In the place of the other, which is written: its tables are not copied, and where they
            # lie in a file beside it, both read that one.
            graph.with_vocabulary(model, schema, vocab)
        inputs = described(schema, vocab, with_vocabulary=name == RAW_FILE)
        graph.with_metadata(model, about | {"polyrank.inputs": inputs})
        files |= _saved(model, folder, name)
    return files


def _compared(
    bundle: Bundle, files: Mapping[str, Path], chunks: Iterable[pl.DataFrame]
) -> dict[str, Parity]:
    sessions = {name: Session(path) for name, path in files.items()}
    allowed = _allowed(bundle)
    parity = {name: Parity(allowed) for name in files}
    for chunk in chunks:
        if not chunk.height:
            continue
        expected = bundle.predict(chunk)
        for name, session in sessions.items():
            make = raw if name == RAW_FILE else encoded
            columns = make(chunk, bundle.schema, bundle.vocab)
            parity[name].compare(_answers(session, columns), expected)
    for name, each in parity.items():
        each.check(name)
    return parity


def _answers(session: Session, columns: Columns) -> dict[str, np.ndarray]:
    parts = [session.run(feeds) for feeds in columns.batches(_RUN_ROWS)]
    return {name: np.concatenate([part[name] for part in parts]) for name in session.outputs}


def _allowed(bundle: Bundle) -> dict[str, float]:
    schema, found = bundle.schema, {}
    for task in schema.tasks:
        path = (task.name, *schema.ancestors(task.name))
        deviation = bundle.scales.get(task.name, (0.0, 1.0))[1]
        for column, heads in zip(output_columns(task), (path[:1], path), strict=False):
            steepest = max(_steepest(bundle.calibrators.get(head)) for head in heads)
            binary = task.kind == "binary"
            found[column] = PROBABILITY * steepest if binary else REGRESSION * deviation
    return found


def _steepest(calibrator: Calibrator | None) -> float:
    """The largest slope of a map, and at least 1."""
    found = None if calibrator is None else calibrator.map
    if isinstance(found, Platt):
        return max(found.slope, 1.0)
    if isinstance(found, Isotonic) and len(found.x) > 1:
        return max(float(np.max(np.diff(found.y) / np.diff(found.x))), 1.0)
    return 1.0


def _saved(model: ModelProto, folder: Path, name: str) -> dict[str, Path]:
    """Write a model; return its files by name: two where its tensors are too large for one."""
    beside = _beside(name)
    large = model.ByteSize() > _LARGEST_BYTES
    onnx.save(model, folder / name, save_as_external_data=large, location=beside)
    return {each: folder / each for each in (name, beside) if (folder / each).is_file()}


def _beside(name: str) -> str:
    return f"{name}.data"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
