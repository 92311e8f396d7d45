"""Which files are the log, and which of them are training, validation and test rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyrank.data.read import files
from polyrank.errors import DataError
from polyrank.text import says

_ROLES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
_ENDINGS = ("*.parquet", "*.csv", "*.tsv", "*.csv.gz", "*.tsv.gz")


def sources(logs: Sequence[str]) -> dict[str, str]:
    """Return `source`, or `train` with what else there is of `valid` and `test`: a path of each.

    Args:
        logs: files, globs or folders.

    Raises:
        DataError: no such file, a folder without a log or with several kinds, an empty file, or
            several files that no glob names together.
    """
    patterns = [_in_folder(each) if Path(each).is_dir() else each for each in logs]
    paths = [path for pattern in patterns for path in files(pattern)]
    for path in paths:
        if not Path(path).stat().st_size:
            raise DataError(f"{path!r} is empty: it has not even a header")
    roles: dict[str, str] = {}
    for path in paths:
        role = next((role for role, words in _ROLES.items() if says(Path(path).stem, words)), None)
        if role is None or role in roles:
            break
        roles[role] = path
    else:
        if "train" in roles:
            return {role: roles[role] for role in _ROLES if role in roles}
    if len(patterns) > 1:
        raise DataError(
            f"{len(patterns)} logs, got {', '.join(map(repr, logs))}: give one folder or glob, or "
            "files whose names say train, valid and test"
        )
    return {"source": patterns[0]}


def _in_folder(folder: str) -> str:
    found = [str(Path(folder) / each) for each in _ENDINGS if any(Path(folder).glob(each))]
    if not found:
        raise DataError(f"{folder!r} is a folder without a .parquet, .csv or .tsv file")
    if len(found) > 1:
        raise DataError(f"{folder!r} holds several kinds of log: name one, such as {found[0]!r}")
    return found[0]
