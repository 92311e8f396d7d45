"""What a path is: a file or a folder of this machine, or a file of an object store.

Rows are read from both; runs, bundles and pages are read from and written to this machine alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from polyrank.errors import ConfigError

_WEB = "no credentials are sent: give a public or a signed address"
_AWS = (
    "credentials are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and "
    "AWS_ENDPOINT_URL"
)
_GOOGLE = "credentials are read from GOOGLE_APPLICATION_CREDENTIALS"
_AZURE = "credentials are read from AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
# Each store that rows are read from, and what it knows a reader by.
STORES: Mapping[str, str] = {
    "s3": _AWS, "s3a": _AWS, "gs": _GOOGLE, "gcs": _GOOGLE, "abfss": _AZURE, "abfs": _AZURE,
    "az": _AZURE, "https": _WEB, "http": _WEB,
}  # fmt: skip
# Of two letters at least: a single one is a drive. A `Path` has made one slash of two.
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/(?P<second>/?)", re.IGNORECASE)


def store_of(path: str | Path) -> str | None:
    """Return the scheme of a path that is not of this machine; None of any other.

    It may be one that no store in `STORES` has.

    Examples:
        >>> store_of("s3://bucket/log.parquet"), store_of("log.parquet"), store_of("file:///a")
        ('s3', None, None)
        >>> store_of(Path("gs://bucket/log.parquet"))
        'gs'
    """
    found = _SCHEME.match(str(path))
    if found is None:
        return None
    scheme = found["scheme"].lower()
    known = bool(found["second"]) or scheme in STORES
    return scheme if known and scheme != "file" else None


def plain(path: str | Path) -> str:
    """Return a path as text: of this machine without `file://`, of a store with two slashes.

    Examples:
        >>> plain("file:///tmp/log.csv"), plain(Path("s3://bucket/log.csv"))
        ('/tmp/log.csv', 's3://bucket/log.csv')
    """
    text = str(path)
    found = _SCHEME.match(text)
    if found is None:
        return text
    scheme, rest = found["scheme"].lower(), text[found.end() :]
    if scheme == "file" and found["second"]:
        return rest
    return f"{scheme}://{rest}" if store_of(path) else text


def absolute(path: str | Path, folder: str | Path = ".") -> str:
    """Return a path that does not depend on where a process runs; a relative one is in `folder`.

    Examples:
        >>> absolute("s3://bucket/log.csv", "/data"), absolute("log.csv", "/data")
        ('s3://bucket/log.csv', '/data/log.csv')
    """
    text = plain(path)
    return text if store_of(path) else str((Path(folder) / text).absolute())


def listed(path: str) -> bool:
    """Whether a path of a store is a glob; a web server lists no files, so that none is there."""
    return store_of(path) not in ("http", "https") and any(each in path for each in "*?[")


def local(path: str | Path, what: str, *, read: bool = False) -> Path:
    """Return a path of this machine.

    Args:
        path: of a file or a folder.
        what: it is, for the message: "the bundle".
        read: whether it is read; else it is written.

    Raises:
        ConfigError: one of an object store, or of any other scheme.

    Examples:
        >>> local("s3://bucket/run", "the run folder")
        Traceback (most recent call last):
        polyrank.errors.ConfigError: the run folder 's3://bucket/run' is not on this machine: only \
rows are read from s3://; write it to a local folder, and copy it there when it is finished
    """
    scheme = store_of(path)
    if scheme is None:
        return Path(plain(path))
    fix = "copy it to this machine, and name it there"
    if not read:
        fix = "write it to a local folder, and copy it there when it is finished"
    if scheme not in STORES:
        raise ConfigError(f"{what} {plain(path)!r} is not on this machine: {fix}")
    raise ConfigError(
        f"{what} {plain(path)!r} is not on this machine: only rows are read from {scheme}://; {fix}"
    )
