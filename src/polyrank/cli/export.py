"""`polyrank export RUN`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from polyrank.bundle.model import Bundle


def export(
    run: Path,
    /,
    *,
    data: str | None = None,
    with_vocabulary: bool = False,
    uncertainty: bool = False,
    json: bool = False,
) -> None:
    """Write model.onnx into a bundle, if its predictions equal the bundle's on real rows.

    Args:
        run: a run folder or a bundle folder.
        data: rows to compare on, instead of the run's own test (else validation, else training)
            rows: a CSV, TSV or Parquet file, or a glob, with or without labels.
        with_vocabulary: also write model-with-vocabulary.onnx, which takes the ids themselves.
        uncertainty: the files also give p_TASK_sd, the standard deviation of the logit, for each
            binary head that has wide rows.
        json: print the files and their parity as JSON.
    """
    from polyrank.bundle.format import find
    from polyrank.bundle.model import load
    from polyrank.cli.show import print_json
    from polyrank.serve.extra import require
    from polyrank.text import aligned

    require("onnx", "onnxscript", "onnxruntime", what="export")
    from polyrank.serve.export.write import export as write

    folder = find(run)
    bundle = load(folder)
    split, chunks = _rows(bundle, data)
    found = write(bundle, folder, chunks, vocabulary=with_vocabulary, uncertainty=uncertainty)
    if json:
        files = {
            str(folder / name): {"split": split, **each.to_json()} for name, each in found.items()
        }
        print_json({"files": files})
        return
    for name, each in found.items():
        print(f"{folder / name}: equals the bundle on {each.rows:,} {split} rows")
    lines = [
        [output, *(f"{each.differences[output]:.1e}" for each in found.values()), f"{limit:.1e}"]
        for output, limit in next(iter(found.values())).allowed.items()
    ]
    print(aligned(["largest difference", *found, "allowed"], lines))


def _rows(bundle: Bundle, data: str | None) -> tuple[str, Iterator[pl.DataFrame]]:
    """Return the name of the rows to compare on, and the rows in chunks."""
    from polyrank.config import own_rows
    from polyrank.data.read import collect_chunks
    from polyrank.errors import DataError, ExportError

    names = bundle.schema.inputs
    if data is not None:
        return "given", collect_chunks(bundle.opened(data).lazy(), names)
    try:
        splits = own_rows(bundle.config)
        for split in ("test", "valid", "train"):
            if split in splits:
                return split, collect_chunks(bundle.opened(splits[split]).lazy(), names)
    except DataError as error:
        raise ExportError(
            f"the run's own rows cannot be read: {error}; give other rows with --data"
        ) from None
    raise ExportError(
        "the run had its rows in memory and knows no file of them: give rows to compare on with "
        "--data"
    )
