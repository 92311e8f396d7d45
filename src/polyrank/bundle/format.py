"""The bundle's folder: written whole or not at all, checked file by file, no torch and no pickle.

bundle.json            format, versions, schema, model, encodings, checksums
config.toml            the resolved experiment
history.parquet        one row per epoch
vocab/TABLE.parquet    columns row, value, count
weights.safetensors    embed.TABLE, trunk.…, head.TASK.…
scorecard.json         the run's own, if rows were scored
model.onnx             if it was exported; the manifest's entry "onnx" has its parity
model-with-vocabulary.onnx   likewise, with the ids as inputs; tables beyond 1.5 GB in a .data file
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import tomli_w
from safetensors import SafetensorError
from safetensors import numpy as tensors

from polyrank.errors import BundleError
from polyrank.files import locked, replacing, replacing_folder, writing

FORMAT = 2
MANIFEST = "bundle.json"


@dataclass(frozen=True)
class Parts:
    """The content of a bundle as plain data.

    Args:
        manifest: schema, model, encodings and target scales as plain tables.
        config: the resolved experiment as plain tables.
        history: one row per epoch.
        vocab: {table: columns row, value, count}.
        weights: {name: array}.
        scorecard: as JSON tables, or None where nothing was scored.
    """

    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    history: pl.DataFrame
    vocab: Mapping[str, pl.DataFrame]
    weights: Mapping[str, np.ndarray]
    scorecard: Mapping[str, Any] | None


def write(path: Path, parts: Parts) -> None:
    """Write a bundle into a temporary folder beside `path`, then rename it.

    Raises:
        BundleError: `path` exists and is no bundle, or cannot be written.
    """
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a bundle: it is left as it is; choose another")
    failures = (SafetensorError, pl.exceptions.PolarsError)
    with writing(f"the bundle {path}", BundleError, *failures), replacing_folder(path) as temporary:
        _fill(temporary, parts)


def read(path: Path, *, weights: bool = True) -> Parts:
    """Read a bundle and check each file against its checksum.

    Args:
        path: its folder.
        weights: False leaves them on the disk, unread but for the checksum.

    Raises:
        BundleError: no bundle, one of another format, or a file that is missing or damaged.
    """
    manifest = _checked(path)
    try:
        vocab = {
            unquote(file.stem): pl.read_parquet(file)
            for file in (path / name for name in manifest["files"])
            if file.parent.name == "vocab"
        }
        scorecard = path / "scorecard.json"
        return Parts(
            manifest=manifest,
            config=tomllib.loads((path / "config.toml").read_text(encoding="utf-8")),
            history=pl.read_parquet(path / "history.parquet"),
            vocab=vocab,
            weights=tensors.load_file(path / "weights.safetensors") if weights else {},
            scorecard=json.loads(scorecard.read_text(encoding="utf-8"))
            if "scorecard.json" in manifest["files"]
            else None,
        )
    except (OSError, ValueError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"the bundle {path} cannot be read: {error}") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a bundle's folder; the files that it lists are not looked at.

    Raises:
        BundleError: no bundle, one of another format, or a manifest that is damaged.
    """
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is no bundle: {MANIFEST} is missing")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the bundle {path} is damaged: {MANIFEST}: {error!r}") from error
    if found > FORMAT:
        raise BundleError(
            f"the bundle {path} has format {found}, written by polyrank "
            f"{manifest.get('polyrank', '?')}; this polyrank reads up to format {FORMAT}: upgrade"
        )
    if found < FORMAT:
        raise BundleError(
            f"the bundle {path} has format {found}, and this polyrank reads format {FORMAT}: train "
            "again, or load it with the polyrank that wrote it "
            f"({manifest.get('polyrank', '?')})"
        )
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"the bundle {path} is damaged: {MANIFEST} does not list its files")
    return manifest


def add(
    path: Path,
    files: Mapping[str, Path],
    entries: Mapping[str, Any],
    *,
    instead_of: Collection[str] = (),
) -> None:
    """Put more files into a bundle, replacing those of their names, and list them in its manifest.

    A reader sees the bundle before or after; while files of these names are replaced, and after a
    kill, it sees the bundle without them. Files that are there already, to the byte, stay
    throughout. Of two processes that add to one bundle, one waits for the other.

    Args:
        path: the bundle's folder.
        files: {name in the bundle: where it is now, on the same disk}; they are moved.
        entries: keys of the manifest.
        instead_of: names of files to remove, unless they are among `files`.

    Raises:
        BundleError: no bundle, or a file that cannot be written.
    """
    read_manifest(path)  # where there is none, nothing is opened
    with writing(f"the bundle {path}", BundleError), locked(path):
        _add(path, files, entries, instead_of)


def find(path: Path) -> Path:
    """Return the bundle's folder of a run folder or a bundle folder.

    Raises:
        BundleError: neither.
    """
    for candidate in (path, path / "bundle"):
        if (candidate / MANIFEST).is_file():
            return candidate
    if (path / "config.toml").is_file():
        raise BundleError(
            f"{path} is a run without a bundle: it has not finished; continue it with "
            "`polyrank train … --resume`"
        )
    if path.exists():
        raise BundleError(f"{path} is no bundle: {MANIFEST} is missing")
    raise BundleError(f"{path} does not exist")


def _add(
    path: Path, files: Mapping[str, Path], entries: Mapping[str, Any], instead_of: Collection[str]
) -> None:
    manifest = read_manifest(path)
    sums = {name: _checksum(file) for name, file in files.items()}
    touched = {*sums, *instead_of}
    kept = {
        name: each
        for name, each in manifest["files"].items()
        if name not in touched or sums.get(name) == each
    }
    if kept != manifest["files"]:
        others = {key: each for key, each in manifest.items() if key not in entries}
        _put(path, {**others, "files": kept})
    for name in touched - sums.keys():
        (path / name).unlink(missing_ok=True)
    for name in files.keys() - kept.keys():
        files[name].replace(path / name)
    _put(path, {**manifest, **entries, "files": dict(sorted((kept | sums).items()))})


def _fill(folder: Path, parts: Parts) -> None:
    (folder / "vocab").mkdir()
    for table, frame in parts.vocab.items():
        frame.write_parquet(folder / "vocab" / f"{quote(table, safe='')}.parquet")
    parts.history.write_parquet(folder / "history.parquet")
    contiguous = {name: np.asarray(array, order="C") for name, array in parts.weights.items()}
    tensors.save_file(contiguous, folder / "weights.safetensors")
    # Safetensors writes for the owner alone, and a server is often another user.
    mode = (folder / "history.parquet").stat().st_mode
    (folder / "weights.safetensors").chmod(mode)
    (folder / "config.toml").write_text(tomli_w.dumps(dict(parts.config)), encoding="utf-8")
    if parts.scorecard is not None:
        (folder / "scorecard.json").write_text(_json(parts.scorecard), encoding="utf-8")
    written = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {
        "format": FORMAT,
        "polyrank": version("polyrank"),
        **parts.manifest,
        "files": {file.relative_to(folder).as_posix(): _checksum(file) for file in written},
    }
    (folder / MANIFEST).write_text(_json(manifest), encoding="utf-8")


def _put(path: Path, manifest: Mapping[str, Any]) -> None:
    with replacing(path / MANIFEST) as temporary:
        temporary.write_text(_json(manifest), encoding="utf-8")


def _checked(path: Path) -> dict[str, Any]:
    """Return the manifest with every file checked; again where it is replaced meanwhile."""
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            found = _checksum(file)
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise BundleError(
                f"the bundle {path} cannot be read: {name}: {error.strerror}"
            ) from error
        if found == expected:
            continue
        if read_manifest(path) != manifest:
            return _checked(path)
        what = "missing" if found is None else "not the file that was written (checksum differs)"
        raise BundleError(f"the bundle {path} is damaged: {name} is {what}")
    return manifest


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
