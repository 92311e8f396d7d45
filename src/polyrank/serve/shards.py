"""A folder that several processes score into, each one part of the rows; they share nothing else.

shards.json                        the source, the model, the number of shards: equal for all
part-00002-of-00008.parquet        the second of eight runs of rows; the names sort as the rows do

The processes may run anywhere and in any order. Each writes its own part, whole or not at all, and
touches no other's. Whichever comes first writes the manifest, and every other must agree with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import ConfigError, DataError
from polyrank.files import replacing
from polyrank.serve.parts import change, read_manifest

MANIFEST = "shards.json"
FORMAT = 1  # of the manifest
_NAMED = re.compile(r"(?P<number>\d+)/(?P<count>\d+)")
_DIGITS = 5


@dataclass(frozen=True)
class Shard:
    """One of several parts of a log, each a run of consecutive rows: the second of eight is 2/8.

    Args:
        number: which one, from 1.
        count: of how many.

    Raises:
        ConfigError: a number that is not within 1 … count.

    Examples:
        >>> Shard.parse("2/8").part
        'part-00002-of-00008.parquet'
        >>> [Shard(number, 3).rows(450, 100) for number in (1, 2, 3)]
        [range(0, 100), range(100, 300), range(300, 450)]
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise _refused(f"{self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read K/N."""
        found = _NAMED.fullmatch(text)
        if found is None:
            raise _refused(text)
        return cls(int(found["number"]), int(found["count"]))

    @property
    def part(self) -> str:
        """The name of its file."""
        digits = max(_DIGITS, len(str(self.count)))
        return f"part-{self.number:0{digits}}-of-{self.count:0{digits}}.parquet"

    def rows(self, total: int, chunk: int) -> range:
        """Return its row numbers: whole chunks of the log, since those are scored to the same bits.

        Every row is in one shard, and shards differ by one chunk at most. Some have no rows if the
        log has fewer chunks than there are shards.
        """
        chunks = -(-total // chunk)
        start, stop = (chunks * before // self.count for before in (self.number - 1, self.number))
        return range(min(start * chunk, total), min(stop * chunk, total))


class ShardsFolder:
    """A folder of shards of one source, seen by the process that writes one of them.

    The constructor only checks the folder; `open` begins to write.
    """

    def __init__(self, path: Path, shard: Shard, *, resume: bool, force: bool) -> None:
        if resume and force:
            raise DataError(
                "resume keeps an existing part and force replaces it: give one of the two"
            )
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file: parts need a folder")
        self.path, self.shard, self.part = path, shard, path / shard.part
        self._head: Mapping[str, Any] = {}
        self._found = self._read()
        self.finished = resume and self.part.exists()  # a part that has its name is whole
        if self.part.exists() and not (resume or force):
            raise DataError(
                f"{self.part} already exists: keep it with --resume, replace it with --force, or "
                "choose another --out"
            )

    def open(self, head: Mapping[str, Any]) -> None:
        """Create the folder with its manifest, or join the one that is there.

        `head` is what all shards have in common; a folder with another is refused.
        """
        self._head = json.loads(json.dumps({"shards": self.shard.count, **head}))
        if self._found:
            self._compare(self._found)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / MANIFEST) as temporary:
            manifest = json.dumps(
                {"format": FORMAT, "head": self._head}, ensure_ascii=False, indent=1
            )
            temporary.write_text(manifest + "\n", encoding="utf-8")

    @contextmanager
    def writing_part(self) -> Generator[Path]:
        """Give a path to write the part to, which gets its name at the end."""
        for left in self.path.glob(f".{self.part.name}.????????"):  # by a killed process
            left.unlink(missing_ok=True)
        with replacing(self.part) as temporary:
            yield temporary
            # Another may have begun at the same moment, and its manifest have replaced ours.
            self._compare(self._read())

    def _read(self) -> dict[str, Any]:
        """Return the manifest; none in a folder with no more than a half-written one."""
        return read_manifest(self.path, MANIFEST, FORMAT, "shards", _check)

    def _compare(self, found: Mapping[str, Any]) -> None:
        before = found.get("head", {})
        for key in {**before, **self._head}:
            was, now = before.get(key), self._head.get(key)
            if was != now:
                raise DataError(
                    f"{self.path} has parts with another {key} ({change(was, now)}): all shards "
                    "need the same; choose another --out, or remove the folder"
                )


def _refused(given: str) -> ConfigError:
    return ConfigError(
        f"a shard must be K/N, the K-th of N parts with K from 1 to N, such as 2/8, got {given!r}"
    )


def _check(found: Mapping[str, Any]) -> None:
    _ = dict(found["head"])
