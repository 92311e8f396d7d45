"""From a bundle to ONNX: one capture, compared with the bundle's predictions on real rows."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import polars as pl
import torch
from onnx import ModelProto
from safetensors import safe_open

from polyrank.bundle import format
from polyrank.bundle.model import Bundle
from polyrank.errors import BundleError, ExportError
from polyrank.registry import resolved
from polyrank.serve.export import graph
from polyrank.serve.export.parity import Parity, compared, first_line
from polyrank.serve.export.twin import Twin, example, given_stages
from polyrank.serve.inputs import RAW_FILE, ROWS_FILE, Inputs

OPSET = 18  # of the operators: what every torch ≥ 2.6 writes and onnxruntime ≥ 1.20 reads
FILES = (ROWS_FILE, RAW_FILE)
# Above, tensors lie in a file beside the graph, which processes map and have in memory once. A
# graph itself holds 2 GiB at most.
_LARGEST_BYTES = 16 * 2**20


def export(
    bundle: Bundle,
    folder: Path,
    chunks: Iterable[pl.DataFrame],
    *,
    vocabulary: bool = False,
    uncertainty: bool | Sequence[str] = False,
) -> dict[str, Parity]:
    """Write a bundle's ONNX files into its folder, if their predictions are the bundle's.

    `model.onnx` takes rows of the vocabularies and raw numbers. Encodings, calibrators and products
    are inside; a correction for down-sampled negatives belongs to the loss, so there is none. With
    `vocabulary`, `model-with-vocabulary.onnx` takes the ids themselves. Both are compared with the
    bundle on chunks of real rows, raw; returned is the parity of each file by name.

    With `uncertainty`, as in `Bundle.predict`, the files have the deviations among their outputs,
    and so has whatever serves them.
    """
    uncertain = bundle.uncertain(uncertainty)
    outputs = bundle.output_columns(uncertain)
    for name in outputs:
        if name in bundle.schema.inputs:
            raise ExportError(
                f"column {name!r} has the name of an output, and a graph has each name once: "
                "rename the column or the task"
            )
    try:
        # Inside the folder: if another bundle takes its place meanwhile, nothing is moved there.
        with TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            _check_same(bundle, folder)
            files = _written(bundle, Path(temporary), uncertain, vocabulary=vocabulary)
            sessions = {name: files[name] for name in FILES if name in files}
            parity = compared(bundle, sessions, chunks, uncertain)
            entries = {name: each.to_json() for name, each in parity.items()}
            former = [name for each in FILES for name in (each, _beside(each))]
            format.add(folder, files, {"onnx": entries}, instead_of=former)
    except OSError as error:
        raise BundleError(f"the bundle {folder} could not be written: {error}") from error
    return parity


def captured(bundle: Bundle, uncertain: Sequence[str] = ()) -> ModelProto:
    """Return the graph of `model.onnx`, if `torch.export` and the ONNX exporter take the trunk."""
    twin, schema = Twin(bundle, uncertain), bundle.schema
    batch = torch.export.Dim("batch")
    lengths = {}
    for at, feature in enumerate(schema.features):
        if feature.ragged:  # weights are as many as ids
            lengths |= dict.fromkeys(feature.columns, torch.export.Dim(f"length_{at}"))
    shapes = [
        {0: batch, 1: lengths[name]} if name in lengths else {0: batch}
        for name in schema.logged_inputs
    ]
    stages = given_stages(bundle)
    shapes += [{0: batch} for _ in stages]
    inputs = example(bundle, rows=3, length=4)
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
    except Exception as error:  # whatever a custom trunk raises
        kinds = bundle.ranker.kinds
        raise ExportError(f"{kinds} cannot be exported: {first_line(error)}") from error
    finally:
        noisy.setLevel(level)
    assert exported is not None
    outputs = bundle.output_columns(uncertain)
    model = exported.model_proto
    taken = [*schema.logged_inputs, *outputs]
    margins = {name: graph.free_name(f"{name}_margin", taken) for name in stages}
    graph.named(model, [*schema.logged_inputs, *margins.values()], outputs)
    graph.with_shapes(model, schema)
    for name, margin in margins.items():
        assert bundle.ranker.first is not None
        stage = bundle.ranker.first.stage[name]
        resolved(stage.graph)(model, stage, margin)
    codecs = bundle.vocab.codecs
    graph.with_constants(
        model, {each.name: np.asarray(codecs[each.name].served(1).values) for each in schema.served}
    )
    return model


def _check_same(bundle: Bundle, folder: Path) -> None:
    """Refuse a folder with other weights, such as those of a run that was started again."""
    weights = bundle.ranker.named_weights()
    with safe_open(folder / "weights.safetensors", framework="pt") as stored:
        same = {*stored.keys()} == weights.keys() and all(
            torch.equal(stored.get_tensor(name), each) for name, each in weights.items()
        )
    if not same:
        raise ExportError(
            f"the bundle {folder} has other weights than the exported one: it was replaced, or "
            "this one was never saved there; load it again, or save this one first"
        )


def _written(
    bundle: Bundle, folder: Path, uncertain: Sequence[str], *, vocabulary: bool
) -> dict[str, Path]:
    """Write the models; return their files by name, those of large tensors too."""
    schema, vocab = bundle.schema, bundle.vocab
    outputs = bundle.output_columns(uncertain)
    about: dict[str, Any] = {
        "polyrank.schema": schema.to_table(),
        "polyrank.outputs": list(outputs),
    }
    first = bundle.ranker.first
    if uncertain and first is not None:
        about["polyrank.precisions"] = {task: first.precision_at(task) for task in uncertain}
    model = captured(bundle, uncertain)
    files: dict[str, Path] = {}
    for name in FILES[: 1 + vocabulary]:
        if name == RAW_FILE:
            # In the place of the other, which is written: its tables are not copied, and where they
            # lie in a file beside it, both read that one.
            graph.with_vocabulary(model, vocab)
        described: dict[str, dict[str, Any]] = {}
        for each, codec in Inputs(schema, vocab).codecs.items():
            described[each] = codec.described(with_vocabulary=name == RAW_FILE)
            described |= {column: beside.described for column, beside in codec.beside.items()}
        inputs = [{"name": each, **described[each]} for each in schema.inputs]
        graph.with_metadata(model, about | {"polyrank.inputs": inputs})
        beside, large = _beside(name), model.ByteSize() > _LARGEST_BYTES
        onnx.save(model, folder / name, save_as_external_data=large, location=beside)
        files |= {each: folder / each for each in (name, beside) if (folder / each).is_file()}
    return files


def _beside(name: str) -> str:
    return f"{name}.data"
