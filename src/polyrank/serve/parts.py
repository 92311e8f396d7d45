"""A folder of output parts: each written whole or not at all, so that `--resume` can continue.

parts.json            the source, the model, the finished parts, and whether all are finished
part-00000.parquet    the first rows; every part but the last has the same number
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyrank.errors import DataError
from polyrank.files import replacing

MANIFEST = "parts.json"
FORMAT = 2


class PartsFolder:
    """The parts of one source. The constructor only checks the folder; `open` begins to write.

    Args:
        path: the folder.
        resume: continue after the existing parts, if any.
        force: remove existing parts.

    Raises:
        DataError: the folder has parts and neither is given, or it has something else.
    """

    def __init__(self, path: Path, *, resume: bool = False, force: bool = False) -> None:
        if resume and force:
            raise DataError(
                "resume continues after existing parts and force removes them: give one of the two"
            )
        self.path, self.resume, self.force = path, resume, force
        self.parts: dict[str, dict[str, int]] = {}
        self.unseen, self.nulls = Counter[str](), Counter[str]()
        self.finished = False
        self._head: Mapping[str, Any] = {}
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file: parts need a folder")
        self._found = self._read() if path.is_dir() and not _empty(path) else None
        if self._found is not None and not (resume or force):
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

        Args:
            head: what all parts have in common, as JSON tables; parts with another are refused.

        Raises:
            DataError: the parts are those of something else, or not as they were written.
            OSError: it cannot be written.
        """
        self._head = json.loads(json.dumps(head))
        if self._found is not None and self.resume:
            self._resume(self._found)
        self.path.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._write()

    @contextmanager
    def part(self) -> Iterator[Path]:
        """Give a path to write the next part to, which gets its name at the end."""
        with replacing(self.path / _name(len(self.parts))) as temporary:
            yield temporary

    def add(self, rows: int, unseen: Mapping[str, int], nulls: Mapping[str, int]) -> None:
        """Record in the manifest that the next part is finished, with its counts."""
        name = _name(len(self.parts))
        self.parts[name] = {"rows": rows, "bytes": (self.path / name).stat().st_size}
        self.unseen.update(unseen)
        self.nulls.update(nulls)
        self._write()

    def finish(self) -> None:
        """Record in the manifest that there are no more rows."""
        self.finished = True
        self._write()

    def _read(self) -> dict[str, Any]:
        """Return the manifest of a folder that is not empty."""
        try:
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}; this polyrank has format {FORMAT}")
            sizes = [(int(each["rows"]), int(each["bytes"])) for each in found["parts"].values()]
            # These names are removed later: none may point elsewhere.
            if [*found["parts"]] != [_name(number) for number in range(len(sizes))]:
                raise ValueError("its parts are not numbered from 0")
            _ = dict(found["head"]), Counter(found["unseen"]), Counter(found["nulls"])
            _ = bool(found["finished"])
        except FileNotFoundError:
            raise DataError(
                f"{self.path} is not empty and has no parts of polyrank (no {MANIFEST}): it is "
                "left as it is; choose another --out"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path / MANIFEST} cannot be read ({error}): {self.path} is left as it is; "
                "choose another --out"
            ) from None
        return found

    def _resume(self, found: Mapping[str, Any]) -> None:
        for key in {**found["head"], **self._head}:
            before, now = found["head"].get(key), self._head.get(key)
            if before != now:
                raise DataError(
                    f"{self.path} has parts with another {key} ({_change(before, now)}): --resume "
                    "needs the same; use --force or another --out"
                )
        for name, each in found["parts"].items():
            part = self.path / name
            size = part.stat().st_size if part.is_file() else None
            if size != each["bytes"]:
                what = (
                    "is missing"
                    if size is None
                    else f"has {size:,} bytes and was written with {each['bytes']:,}"
                )
                raise DataError(f"{part} {what}: start again with --force")
        self.parts = dict(found["parts"])
        self.unseen, self.nulls = Counter(found["unseen"]), Counter(found["nulls"])
        self.finished = bool(found["finished"])

    def _sweep(self) -> None:
        """Remove the parts that are not resumed, and what a killed process left of one."""
        listed = [] if self._found is None else [*self._found["parts"]]
        # The part being written may be whole: it gets its name before its entry.
        for name in {*listed, _name(len(listed))} - {*self.parts}:
            (self.path / name).unlink(missing_ok=True)
        for name in (MANIFEST, *listed, _name(len(listed))):
            for left in self.path.glob(f".{name}.????????"):
                left.unlink(missing_ok=True)

    def _write(self) -> None:
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(
                json.dumps(
                    {
                        "format": FORMAT,
                        "finished": self.finished,
                        "rows": self.rows,
                        "head": self._head,
                        "parts": self.parts,
                        "unseen": self.unseen,
                        "nulls": self.nulls,
                    },
                    ensure_ascii=False,
                    indent=1,
                )
                + "\n",
                encoding="utf-8",
            )


def _empty(path: Path) -> bool:
    """Whether a folder has nothing but what a killed process left of its first manifest."""
    return all(each.match(f".{MANIFEST}.????????") for each in path.iterdir())


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _change(before: Any, now: Any) -> str:
    """Describe the first difference, within a table or a list that of one entry."""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{len(before)} files before and {len(now)} now"
        number = next(n for n in range(len(now)) if before[n] != now[n])
        return f"file {number + 1} of {len(now)}: {_change(before[number], now[number])}"
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
        return f"{key} {_change(before.get(key), now.get(key))}"
    return f"was {_short(before)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:12]}…'"
