"""A folder of scored parts: one process writes them in turn, and is resumed after any of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import DataError
from polyrank.files import replacing

MANIFEST = "parts.json"
FORMAT = 2  # of the manifest


@dataclass(frozen=True)
class Counts:
    """The counts of scored files: rows, unseen ids and missing values by feature."""

    rows: int
    unseen: dict[str, int]
    nulls: dict[str, int]
    resumed: int = 0  # rows that an earlier run had finished


def read_manifest(
    folder: Path, name: str, form: int, what: str, check: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Return the manifest of a folder of predictions; none where there is only a half-written one.

    Args:
        folder: which need not be there.
        name: of the manifest.
        form: the format that is read.
        what: the folder holds.
        check: raises a ValueError, a KeyError, a TypeError or an AttributeError for what is wrong.

    Raises:
        DataError: a folder of something else, or a manifest that cannot be read.
    """
    if not folder.is_dir() or all(each.match(f".{name}.????????") for each in folder.iterdir()):
        return {}
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if found["format"] != form:
            raise ValueError(f"format {found['format']}; this polyrank has format {form}")
        check(found)
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not empty and has no {what} of polyrank (no {name}): it is "
            "left as it is; choose another --out"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / name} cannot be read ({error}): {folder} is left as it is; "
            "choose another --out"
        ) from None
    return found


def _check(found: Mapping[str, Any]) -> None:
    sizes = [(int(each["rows"]), int(each["bytes"])) for each in found["parts"].values()]
    # These names are removed later: none may point elsewhere.
    if [*found["parts"]] != [_part(number) for number in range(len(sizes))]:
        raise ValueError("its parts are not numbered from 0")
    _ = dict(found["head"]), Counter(found["unseen"]), Counter(found["nulls"])
    _ = bool(found["finished"])


class PartsFolder:
    """A folder of parts of one source, each written whole or not at all.

    The constructor only checks the folder; `open` begins to write.

    parts.json            the source, the model, the finished parts, and whether all are finished
    part-00000.parquet    the first rows; every part but the last has the same number
    """

    def __init__(self, path: Path, *, resume: bool, force: bool) -> None:
        if resume and force:
            raise DataError(
                "resume continues after existing parts and force removes them: give one of the two"
            )
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file: parts need a folder")
        self.path, self._resumes = path, resume
        self.parts: dict[str, dict[str, int]] = {}
        self.unseen, self.nulls = Counter[str](), Counter[str]()
        self.finished = False
        self._head: Mapping[str, Any] = {}
        self._found = self._read()
        if self._found and not (resume or force):
            raise DataError(
                f"{path} already has parts: continue with --resume, replace them with --force, or "
                "choose another --out"
            )

    @property
    def rows(self) -> int:
        """Rows in the finished parts."""
        return sum(part["rows"] for part in self.parts.values())

    def open(self, head: Mapping[str, Any]) -> None:
        """Create the folder with its manifest, or resume the one that is there.

        `head` is what all parts have in common; parts with another are refused.
        """
        self._head = json.loads(json.dumps(head))
        if self._found and self._resumes:
            self._resume(self._found)
        self.path.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._write()

    def part(self) -> AbstractContextManager[Path]:
        """Give a path to write the next part to, which gets its name at the end."""
        return replacing(self.path / _part(len(self.parts)))

    def add(self, counts: Counts) -> None:
        """Record in the manifest that the next part is finished."""
        name = _part(len(self.parts))
        self.parts[name] = {"rows": counts.rows, "bytes": (self.path / name).stat().st_size}
        self.unseen.update(counts.unseen)
        self.nulls.update(counts.nulls)
        self._write()

    def finish(self) -> None:
        """Record in the manifest that there are no more rows."""
        self.finished = True
        self._write()

    def _read(self) -> dict[str, Any]:
        return read_manifest(self.path, MANIFEST, FORMAT, "parts", _check)

    def _resume(self, found: Mapping[str, Any]) -> None:
        for key in {**found["head"], **self._head}:
            before, now = found["head"].get(key), self._head.get(key)
            if before != now:
                raise DataError(
                    f"{self.path} has parts with another {key} ({change(before, now)}): --resume "
                    "needs the same; use --force or another --out"
                )
        for name, each in found["parts"].items():
            part = self.path / name
            size = part.stat().st_size if part.is_file() else None
            if size != each["bytes"]:
                what = "is missing"
                if size is not None:
                    what = f"has {size:,} bytes and was written with {each['bytes']:,}"
                raise DataError(f"{part} {what}: start again with --force")
        self.parts, self.finished = dict(found["parts"]), bool(found["finished"])
        self.unseen, self.nulls = Counter(found["unseen"]), Counter(found["nulls"])

    def _sweep(self) -> None:
        """Remove the parts that are not resumed, and what a killed process left of one."""
        listed = [*self._found.get("parts", ())]
        written = [*listed, _part(len(listed))]  # the last may be whole, but without its entry
        for name in set(written) - self.parts.keys():
            (self.path / name).unlink(missing_ok=True)
        for name in (MANIFEST, *written):
            for left in self.path.glob(f".{name}.????????"):
                left.unlink(missing_ok=True)

    def _write(self) -> None:
        manifest = {
            "format": FORMAT,
            "finished": self.finished,
            "rows": self.rows,
            "head": self._head,
            "parts": self.parts,
            "unseen": self.unseen,
            "nulls": self.nulls,
        }
        with replacing(self.path / MANIFEST) as temporary:
            text = json.dumps(manifest, ensure_ascii=False, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")


def _part(number: int) -> str:
    return f"part-{number:05d}.parquet"


def change(before: Any, now: Any) -> str:
    """Describe the first difference, within a table or a list that of one entry."""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{len(before)} files before and {len(now)} now"
        number = next(n for n in range(len(now)) if before[n] != now[n])
        return f"file {number + 1} of {len(now)}: {change(before[number], now[number])}"
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return f"{key} {change(before.get(key), now.get(key))}"
    texts = ("missing" if each is None else repr(each) for each in (before, now))
    was, has = (text if len(text) <= 40 else f"{text[:12]}…'" for text in texts)
    return f"was {was}, is {has}"
