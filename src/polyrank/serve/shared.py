"""Look-ups of vocabularies in files that the processes of one server map: in memory once.

A folder of the server's own has a folder for each version of a bundle. The first process that loads
the version fills it; what is mapped stays until the last one lets it go, also where the files are
removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polyrank.data.vocab import Vocab
from polyrank.errors import BundleError
from polyrank.features.vocabulary import Vocabulary
from polyrank.files import locked, replacing

FORMAT = 1
_INDEX = "index.json"
_TYPES = ("int32", "int64")
_TEXT = "polyrank"  # whose hash tells processes apart


def sharing(vocab: Vocab, folder: Path) -> Vocab:
    """Return a vocabulary whose look-ups are mapped from files of `folder`, written if need be.

    Raises:
        BundleError: files of another form, or of a process whose texts have other hashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not (folder / _INDEX).is_file():
            _write(vocab.tables, folder)
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index.get("format") != FORMAT:
            raise BundleError(
                f"{folder} has form {index.get('format')}, and this polyrank shares form {FORMAT}: "
                "remove the folder"
            )
        texts = any(each.dtype == "string" for each in vocab.tables.values())
        if texts and index["hash"] != hash(_TEXT):
            raise BundleError(
                f"{folder} was written by a process whose texts have other hashes: start all that "
                "share it with one PYTHONHASHSEED, a number above 0"
            )
        whole = {name: _mapped(folder / f"{name}.npy") for name in _TYPES}
    tables = {}
    for table, vocabulary in vocab.tables.items():
        about = index["tables"][table]
        arrays = {
            name: whole[dtype][start : start + length]
            for name, (dtype, start, length) in about["arrays"].items()
        }
        tables[table] = vocabulary.sharing(arrays, about["low"])
    return Vocab(vocab.features, tables, vocab.states)


def _write(tables: Mapping[str, Vocabulary], folder: Path) -> None:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _TYPES}
    starts = dict.fromkeys(_TYPES, 0)
    index = {}
    for table, vocabulary in tables.items():
        found = {}
        for name, array in vocabulary.arrays().items():
            dtype = array.dtype.name
            found[name] = (dtype, starts[dtype], len(array))
            parts[dtype].append(array)
            starts[dtype] += len(array)
        direct = vocabulary.direct
        index[table] = {"arrays": found, "low": None if direct is None else direct[0]}
    for dtype, arrays in parts.items():
        with replacing(folder / f"{dtype}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([np.zeros(0, dtype), *arrays]))
    with replacing(folder / _INDEX) as temporary:
        found = {"format": FORMAT, "hash": hash(_TEXT), "tables": index}
        temporary.write_text(json.dumps(found), encoding="utf-8")


def _mapped(file: Path) -> np.ndarray:
    found = np.load(file, mmap_mode="r")
    return found.view(np.ndarray)
