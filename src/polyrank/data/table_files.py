"""The columns of a table on disk: arrays that numpy maps into memory, written whole or in chunks.

SPLIT.ids.npy, SPLIT.dense.npy, …   an array of a Table each; SPLIT.bag.0.ids.npy, … of a Bag
SPLIT.keys.arrow, SPLIT.carried.arrow   raw columns
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from polyrank.data.mapped import mapped
from polyrank.data.table import Table
from polyrank.features.bags import Bag
from polyrank.schema import Schema


class TableFiles:
    """Writes a table of so many rows; `first` says what its chunks have, and is not written."""

    def __init__(self, folder: Path, split: str, first: Table, rows: int, stack: ExitStack) -> None:
        self.folder, self.split, self.first, self.rows = folder, split, first, rows
        self.keys: list[pl.DataFrame] = []
        self.carried: list[pl.DataFrame] = []
        self.unseen = dict.fromkeys(first.unseen, 0)
        self.nulls = dict.fromkeys(first.nulls, 0)

        def opened(name: str, like: np.ndarray) -> ArrayFile:
            path = folder / f"{split}.{name}.npy"
            return stack.enter_context(closing(ArrayFile(path, like.dtype)))

        self.rowwise = {name: opened(name, each) for name, each in _rowwise(first).items()}
        self.ids, self.numbers = opened("ids", first.ids), opened("numbers", first.numbers)
        self.bags = [
            {
                name: opened(f"bag.{index}.{name}", each)
                for name, each in vars(bag).items()
                if each is not None
            }
            for index, bag in enumerate(first.bags)
        ]
        self.elements = [0] * len(first.bags)
        self.lists = [0] * len(first.bags)
        for files in self.bags:
            files["offsets"].append(np.zeros(1, dtype=np.int64))

    def write(self, table: Table, start: int) -> None:
        """Write the rows of a chunk behind those before."""
        for name, array in _rowwise(table).items():
            self.rowwise[name].append(array)
        for file, columns in ((self.ids, table.ids), (self.numbers, table.numbers.T)):
            for place, column in enumerate(columns):
                file.put(column, place * self.rows + start)
        for index, bag in enumerate(table.bags):
            if bag.rows is None:
                self.write_lists(index, bag)
            else:
                self.bags[index]["rows"].append(bag.rows)
        for totals, counts in ((self.unseen, table.unseen), (self.nulls, table.nulls)):
            for name, count in counts.items():
                totals[name] += count
        self.keys.append(table.keys)
        self.carried.append(table.carried)

    def write_lists(self, index: int, bag: Bag) -> None:
        """Write lists of a bag behind those before; of a table that shares lists, each once."""
        files = self.bags[index]
        files["ids"].append(bag.ids)
        if bag.weights is not None:
            files["weights"].append(bag.weights)
        files["offsets"].append(bag.offsets[1:] + self.elements[index])
        self.elements[index] += len(bag.ids)
        self.lists[index] += len(bag.offsets) - 1

    def facts(self) -> dict[str, Any]:
        """Finish the files; return what a manifest says of the table."""
        first, rows = self.first, self.rows
        for name, array in _rowwise(first).items():
            self.rowwise[name].finish((rows, *array.shape[1:]))
        self.ids.finish((len(first.ids), rows))
        # Trees read one number's column after the other.
        self.numbers.finish((rows, first.numbers.shape[1]), fortran_order=True)
        for elements, lists, files in zip(self.elements, self.lists, self.bags, strict=True):
            lengths = {"ids": elements, "weights": elements, "offsets": lists + 1, "rows": rows}
            for name, file in files.items():
                file.finish((lengths[name],))
        for name, frames in (("keys", self.keys), ("carried", self.carried)):
            pl.concat(frames).write_ipc(self.folder / f"{self.split}.{name}.arrow")
        return {
            "weight": first.weight is not None,
            "bags": [list(files) for files in self.bags],
            "truth": list(first.truth),
            "unseen": self.unseen,
            "nulls": self.nulls,
            "slices": {name: [each.start, each.stop] for name, each in first.slices.items()},
        }


def write_table(folder: Path, split: str, table: Table) -> dict[str, Any]:
    """Write a whole table; return what `read_table` needs beside the files."""
    with ExitStack() as stack:
        files = TableFiles(folder, split, table, len(table), stack)
        files.write(table, 0)
        for index, bag in enumerate(table.bags):
            if bag.rows is not None:
                files.write_lists(index, bag)
        return files.facts()


def _rowwise(table: Table) -> dict[str, np.ndarray]:
    """Return the arrays of which a row is a row of the table, by the name of their file."""
    found = {"dense": table.dense, "labels": table.labels, "extras": table.extras}
    if table.weight is not None:
        found["weight"] = table.weight
    return found | {f"true_{name}": values for name, values in table.truth.items()}


class ArrayFile:
    """A .npy file that is written piece by piece, and whose shape is said at the end."""

    HEADER_BYTES = 128

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._file = path.open("wb")
        self._file.seek(self.HEADER_BYTES)

    def append(self, array: np.ndarray) -> None:
        """Write elements behind the last ones."""
        self._file.write(np.ascontiguousarray(array, dtype=self.dtype).data)

    def put(self, array: np.ndarray, place: int) -> None:
        """Write elements from a place on, which is counted in elements of the whole array."""
        self._file.seek(self.HEADER_BYTES + place * self.dtype.itemsize)
        self.append(array)

    def finish(self, shape: tuple[int, ...], *, fortran_order: bool = False) -> None:
        """Write the header, which says the shape of all that was written."""
        header = BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        about = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
        np.lib.format.write_array_header_1_0(header, about)
        assert header.tell() == self.HEADER_BYTES
        self._file.seek(0)
        self._file.write(header.getbuffer())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_table(path: Path, split: str, facts: Mapping[str, Any], schema: Schema) -> Table:
    """Return a table whose arrays are mapped copy-on-write: their files stay as they are."""

    def array(name: str) -> np.ndarray:
        return mapped(path / f"{split}.{name}.npy")

    bags = [
        {name: array(f"bag.{index}.{name}") for name in names}
        for index, names in enumerate(facts["bags"])
    ]
    return Table(
        schema=schema,
        ids=array("ids"),
        dense=array("dense"),
        labels=array("labels"),
        weight=array("weight") if facts["weight"] else None,
        keys=pl.read_ipc((path / f"{split}.keys.arrow").read_bytes()),
        truth={name: array(f"true_{name}") for name in facts["truth"]},
        unseen=facts["unseen"],
        nulls=facts["nulls"],
        slices={name: slice(*each) for name, each in facts["slices"].items()},
        carried=pl.read_ipc((path / f"{split}.carried.arrow").read_bytes()),
        extras=array("extras"),
        numbers=array("numbers"),
        bags=tuple(Bag(**each) for each in bags),
    )
