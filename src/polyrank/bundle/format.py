"""The bundle's folder: written whole or not at all, checked file by file, no torch and no pickle.

bundle.json            format, versions, schema, model, encodings, checksums
config.toml            the resolved experiment
history.parquet        one row per epoch
vocab/TABLE.parquet    columns row, value, count; ids of row 0 are rare ones
weights.safetensors    embed.TABLE, interaction.…, trunk.…, head.TASK.…
scorecard.json         the run's own, if rows were scored
profile.json           what rows looked like at fit, if a run counted them
stages/NAME/FILE.txt   texts of a first stage, such as a head's trees
model.onnx             if it was exported; the manifest's entry "onnx" has its parity
model-with-vocabulary.onnx   likewise, with the ids as inputs; tensors of large ones in a .data file
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
import tomli_w
from safetensors import SafetensorError
from safetensors import numpy as tensors

from polyrank.data.vocab import Vocab, id_owners
from polyrank.errors import BundleError
from polyrank.features import hashing
from polyrank.features.vocabulary import Vocabulary
from polyrank.files import locked, replacing, replacing_folder, writing
from polyrank.paths import local
from polyrank.schema import Schema

FORMAT = 6
MANIFEST = "bundle.json"
STAGES = "stages/"
_LISTED = pl.col("row") > 0
_ATTEMPTS = 5  # to read a bundle that is replaced while it is read
Found = TypeVar("Found")


@dataclass(frozen=True)
class Parts:
    """The content of a bundle as plain data.

    Args:
        manifest: what bundle.json holds beside what `write` adds.
        config: the resolved experiment.
        history: one row per epoch.
        vocab: entries by table.
        weights: arrays by lasting name.
        scorecard: None where nothing was scored.
        stages: texts of first stages, by path below `stages/`.
        profile: of rows at fit; None where none was made.
    """

    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    history: pl.DataFrame
    vocab: Mapping[str, pl.DataFrame]
    weights: Mapping[str, np.ndarray]
    scorecard: Mapping[str, Any] | None
    stages: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None


def write(path: Path, parts: Parts) -> None:
    """Write a bundle into a temporary folder beside `path`, then rename it."""
    path = local(path, "the bundle")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} exists and is not a bundle: it is left as it is; choose another")
    failures = (SafetensorError, pl.exceptions.PolarsError)
    with writing(f"the bundle {path}", BundleError, *failures), replacing_folder(path) as temporary:
        _fill(temporary, parts)


def read(path: Path, *, weights: bool = True, shared: Path | None = None) -> Parts:
    """Read a bundle, and check each file against its checksum.

    Without `weights`, texts of first stages are left out too: an exported graph has both. With
    `shared`, a folder of the server's own, vocabularies are mapped from there, where the first
    process puts them. Rare ids, which only a warm start counts on, come with the weights.
    """
    manifest = _checked(path)
    try:
        files = {
            unquote(file.stem): file
            for file in (path / name for name in manifest["files"])
            if file.parent.name == "vocab"
        }
        if shared is None:
            vocab = {table: pl.read_parquet(file) for table, file in files.items()}
            if not weights:
                vocab = {table: each.filter(_LISTED) for table, each in vocab.items()}
        else:
            vocab = _mapped(files, shared / version_of(manifest))
        scorecard = None
        if "scorecard.json" in manifest["files"]:
            scorecard = json.loads((path / "scorecard.json").read_text(encoding="utf-8"))
        profile = None
        if "profile.json" in manifest["files"]:
            profile = json.loads((path / "profile.json").read_text(encoding="utf-8"))
        config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        history = pl.read_parquet(path / "history.parquet")
        arrays = tensors.load_file(path / "weights.safetensors") if weights else {}
        stages = {
            name.removeprefix(STAGES): (path / name).read_text(encoding="utf-8")
            for name in manifest["files"]
            if weights and name.startswith(STAGES)
        }
        return Parts(manifest, config, history, vocab, arrays, scorecard, stages, profile)
    except (OSError, ValueError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"the bundle {path} cannot be read: {error}") from error


def _mapped(files: Mapping[str, Path], folder: Path) -> dict[str, pl.DataFrame]:
    """Return Parquet files as mapped Arrow files, which are written where they are not there."""
    import pyarrow as pa  # polars copies what it reads of such a file

    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (table, file) in enumerate(files.items()):
        arrow = folder / f"{number}.arrow"
        with locked(folder):
            if not arrow.is_file():
                # One piece, of types that every pyarrow reads.
                read = (
                    pl.read_parquet(file)
                    .filter(_LISTED)
                    .to_arrow(compat_level=pl.CompatLevel.oldest())
                )
                with (
                    replacing(arrow) as temporary,
                    pa.ipc.new_file(str(temporary), read.schema) as written,
                ):
                    written.write_table(read.combine_chunks())
            with pa.memory_map(str(arrow)) as opened:
                frame = pl.from_arrow(pa.ipc.open_file(opened).read_all(), rechunk=False)
            assert isinstance(frame, pl.DataFrame)
            found[table] = frame
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a bundle's folder; the files that it lists are not looked at."""
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is no bundle: {MANIFEST} is missing")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the bundle {path} is damaged: {MANIFEST}: {error!r}") from error
    writer = manifest.get("polyrank", "?")
    if found > FORMAT:
        raise BundleError(
            f"the bundle {path} has format {found}, written by polyrank {writer}; this polyrank "
            f"reads up to format {FORMAT}: upgrade"
        )
    if found < FORMAT:
        raise BundleError(
            f"the bundle {path} has format {found}, and this polyrank reads format {FORMAT}: train "
            f"again, or load it with the polyrank that wrote it ({writer})"
        )
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"the bundle {path} is damaged: {MANIFEST} does not list its files")
    for name in manifest["files"]:
        if PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) or "\\" in name:
            raise BundleError(
                f"the bundle {path} is damaged: {MANIFEST} lists {name!r}, which is not a file of "
                "its folder"
            )
    return manifest


def add(
    path: Path,
    files: Mapping[str, Path],
    entries: Mapping[str, Any],
    *,
    instead_of: Collection[str] = (),
) -> None:
    """Move `files` into a bundle, from the same disk, and add `entries` to its manifest.

    A reader sees the bundle before or after; while files of these names are replaced, and after a
    kill, it sees the bundle without them. Files that are there already, to the byte, stay. Of two
    processes, one waits. The files `instead_of` are removed, unless they are added.
    """
    read_manifest(path)  # where there is none, nothing is opened
    with writing(f"the bundle {path}", BundleError), locked(path):
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


def identity(path: Path) -> tuple[int, ...] | None:
    """Return what differs whenever a bundle's folder or manifest is replaced; None without one."""
    try:
        folder, manifest = path.stat(), (path / MANIFEST).stat()
    except OSError:
        return None
    return (folder.st_ino, manifest.st_ino, manifest.st_mtime_ns, manifest.st_size)


def _text(path: Path) -> bytes | None:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError:
        return None


def version_of(manifest: Mapping[str, Any]) -> str:
    """Return a name for a bundle's content: of the checksums of its files, and what else is said.

    Examples:
        >>> version_of({"format": 4, "files": {"config.toml": "…"}})
        '45283f26454c'
    """
    text = json.dumps(manifest, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def undisturbed(path: Path, load: Callable[[], Found]) -> Found:
    """Return what `load` reads of a bundle's folder, from one bundle and not from two.

    Where the folder or its manifest is replaced meanwhile, it is loaded again: else the
    vocabularies could be of the bundle before, and the graph of the one after. On a disk whose
    files never look the same twice, what the manifest says decides in the end.
    """
    for attempt in range(_ATTEMPTS):
        before, said = identity(path), _text(path)
        try:
            found = load()
        except BundleError:
            if identity(path) == before:
                raise
        else:
            last = attempt == _ATTEMPTS - 1
            if identity(path) == before or (last and said == _text(path)):
                return found
    raise BundleError(
        f"the bundle {path} was replaced {_ATTEMPTS} times while it was read: write it less often"
    )


def find(path: Path) -> Path:
    """Return the bundle's folder of a run folder or a bundle folder."""
    path = local(path, "the run or bundle", read=True)
    for candidate in (path, path / "bundle"):
        if (candidate / MANIFEST).is_file():
            return candidate
    for run in seed_runs(path).values():
        raise BundleError(f"{path} holds a run of each of several seeds: name one, such as {run}")
    if (path / "config.toml").is_file():
        raise BundleError(
            f"{path} is a run without a bundle: it has not finished; continue it with "
            "`polyrank train … --resume`"
        )
    reason = f"is no bundle: {MANIFEST} is missing" if path.exists() else "does not exist"
    raise BundleError(f"{path} {reason}")


def seed_runs(path: Path) -> dict[int, Path]:
    """Return the runs of a folder that `train --seeds` wrote, by seed; empty of any other."""
    if (path / MANIFEST).is_file() or (path / "config.toml").is_file():
        return {}
    named = {file.parent.name: file.parent for file in path.glob("seed-*/config.toml")}
    runs = {int(name[5:]): run for name, run in named.items() if name[5:].isdecimal()}
    return dict(sorted(runs.items()))


def vocab_of(schema: Schema, parts: Parts) -> Vocab:
    """Return how a bundle's ids become rows and its numbers columns."""
    tables = {
        table: owner.fixed(table) or Vocabulary.from_frame(parts.vocab[table])
        for table, owner in id_owners(schema.features).items()
    }
    states = Vocab.states_of(schema.features, parts.manifest["encodings"])
    vocab = Vocab(schema.features, tables, states)
    if hash_version(vocab) and (found := int(parts.manifest["hash_version"])) != hashing.VERSION:
        table = next(name for name, each in tables.items() if each.dtype == "hash")
        raise BundleError(
            f"feature {table!r} was hashed by version {found} of the hash, and this polyrank has "
            f"version {hashing.VERSION}: upgrade"
        )
    return vocab


def hash_version(vocab: Vocab) -> dict[str, int]:
    """Return the manifest's entry on the hash, where ids are hashed."""
    hashed = any(table.dtype == "hash" for table in vocab.tables.values())
    return {"hash_version": hashing.VERSION} if hashed else {}


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
    if parts.profile is not None:
        (folder / "profile.json").write_text(_json(parts.profile), encoding="utf-8")
    for name, text in parts.stages.items():
        file = folder / STAGES / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
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
        try:
            found = _checksum(path / name)
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
