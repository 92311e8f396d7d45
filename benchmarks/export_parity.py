"""How far exported files are from their bundles, for every trunk and space, on all test rows.

Every trunk is trained for one epoch on Census-Income and on the synthetic log with every space,
calibrated on the validation rows, saved, and exported with and without its vocabularies by
`polyrank.serve.export`, which scores all test rows in onnxruntime and in torch. Prints the largest
difference of any probability, with the bundle's calibrators and without, and beside it how far
float32 rounding moves the bundle itself from its network in float64. The tasks of Census-Income do
not condition each other, so `rich_and_single`, given a high income, is made from both.

    python benchmarks/export_parity.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from parts.record import RESULTS, origin, write

import polyrank as pr
from polyrank.data.read import collect_chunks
from polyrank.datasets import load
from polyrank.errors import ExportError
from polyrank.models.model import TRUNKS
from polyrank.serve.export.write import export
from polyrank.serve.inputs import RAW_FILE, ROWS_FILE
from polyrank.text import aligned

SEED = 7
TRAINING_ROWS = 200_000  # enough: the quality of the model is not measured
CHILD = {"census": "rich_and_single", "synthetic": "buy"}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the synthetic log")
    parser.add_argument("--out", type=Path, default=RESULTS / "export_parity.json")
    return parser.parse_args()


def frames(name: str, rows: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pr.Schema]:
    """Return train, valid, test and a schema whose second event is conditional on the first."""
    if name == "synthetic":
        train, valid, test, schema = load(name, rows=rows, seed=SEED)
    else:
        train, valid, test, schema = load(name)
        both = (pl.col("income") * pl.col("never_married")).alias(CHILD[name])
        train, valid, test = (each.with_columns(both) for each in (train, valid, test))
        schema = replace(schema, tasks=[*schema.tasks, pr.Task(CHILD[name], given="income")])
    return train.head(TRAINING_ROWS).collect(), valid.collect(), test.collect(), schema


def measured(name: str, rows: int) -> Iterator[dict[str, Any]]:
    """Yield the parity of each trunk and space."""
    train, valid, test, schema = frames(name, rows)
    if name == "census":  # whose test file was halved for validation: all of it is compared
        test = pl.concat([valid, test])
    child = schema.by_name[CHILD[name]]
    for space in ("all", child.given, ("all", child.given)):
        tasks = [replace(t, space=space) if t is child else t for t in schema.tasks]
        own = replace(schema, tasks=tasks)
        for kind, trunk in TRUNKS.items():
            bundle = pr.fit(
                own, pr.Model(trunk=trunk()), train=train, valid=valid, epochs=1, seed=SEED
            )
            yield {
                "log": name,
                "trunk": kind,
                "space": space if isinstance(space, str) else " and ".join(space),
                "rows": test.height,
                "calibrated": compared(bundle, test, vocabulary=True),
                "uncalibrated": compared(replace(bundle, calibrators={}), test),
            }


def compared(bundle: pr.Bundle, test: pl.DataFrame, *, vocabulary: bool = False) -> dict[str, Any]:
    """Export a bundle; return the parity of its files on the test rows."""
    names = [feature.name for feature in bundle.schema.features]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        bundle.save(path)
        try:
            found = export(bundle, path, collect_chunks(test, names), vocabulary=vocabulary)
        except ExportError as refused:  # is what was found
            return {"refused": str(refused)}
    return {
        file: {"differences": each.differences, "rounding": each.rounding, "allowed": each.allowed}
        for file, each in found.items()
    }


def main() -> None:
    """Measure, print one line per trunk and space, and write the results."""
    args = options()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for name in CHILD:
        for line in measured(name, args.rows):
            lines.append(line)
            print(line["log"], line["trunk"], line["space"], flush=True)
            write(args.out, {**origin("onnx", "onnxruntime", "onnxscript"), "parity": lines})
    header = ["log", "trunk", "space", "rows", "with vocabulary", "calibrated", "rounding",
              "uncalibrated", "rounding"]  # fmt: skip
    cells = [
        [line["log"], line["trunk"], line["space"], f"{line['rows']:,}"]
        + [_largest(line["calibrated"], RAW_FILE)]
        + [
            _largest(line[of], ROWS_FILE, what)
            for of in ("calibrated", "uncalibrated")
            for what in ("differences", "rounding")
        ]
        for line in lines
    ]
    print(aligned(header, cells, range(3, len(header))))


def _largest(found: dict[str, Any], file: str, what: str = "differences") -> str:
    return "refused" if "refused" in found else f"{max(found[file][what].values()):.1e}"


if __name__ == "__main__":
    main()
