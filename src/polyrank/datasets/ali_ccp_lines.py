"""Lines of the raw Ali-CCP files to arrays, some thousand at a time: bytes, no text.

A file of the full log has 10 GB and hundreds of millions of features, so a line is no Python object
here, nor is a feature. Eight digits are one 64-bit word, which three multiplications make a number.

Letters: N lines, E features of all lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from polyrank.errors import DataError

CHUNK_BYTES = 1 << 19
THREADS = 2
T = TypeVar("T")
_COMMA, _LINE, _NEXT, _ID, _VALUE, _POINT = b",\n\x01\x02\x03."
_WORD = 8  # bytes
_ALL = np.uint64(2**64 - 1)


@dataclass(frozen=True, eq=False)
class Lines:
    """Some lines of one file.

    Args:
        numbers: the columns before the index, then the count of features.
        index: of the common row: as a number.
        offsets: where the features of each line begin.
        field: the name of each feature's field, as the number `code_of` makes of it.
        id: of each feature.
        value: of each feature.

    Shape:
        numbers: int64 (columns, N) · index: uint64 (N,) · offsets: int64 (N + 1,) · field: uint64
        (E,) · id: int64 (E,) · value: float32 (E,)
    """

    numbers: np.ndarray
    index: np.ndarray
    offsets: np.ndarray
    field: np.ndarray
    id: np.ndarray
    value: np.ndarray


def code_of(name: str) -> int:
    """Return the name of a field, of at most eight letters, as a number.

    >>> code_of("101") == int.from_bytes(b"101", "little")
    True
    """
    return int.from_bytes(name.encode(), "little")


def name_of(code: int) -> str:
    """Return the name that `code_of` made a number of."""
    return int(code).to_bytes(_WORD, "little").rstrip(b"\0").decode(errors="replace")


def lines_of(
    path: Path, columns: int, then: Callable[[Lines], T], *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[T]:
    """Yield what becomes of the lines of a file, chunk by chunk and in order.

    Args:
        path: of the file.
        columns: before the index.
        then: called with each chunk in a thread of its own; several run at once.
        chunk_bytes: so few that what is made of them on the way stays in the cache.

    Raises:
        DataError: a line of another form, by its number, or a file that cannot be read.
    """

    def made(text: bytes, before: int) -> T:
        return then(_Chunk(text, columns, path, before).lines())

    try:
        with path.open("rb") as file, ThreadPoolExecutor(THREADS) as pool:
            waiting: deque[Future[T]] = deque()
            before = 0
            for text in _blocks(file, chunk_bytes):
                waiting.append(pool.submit(made, text, before))
                before += text.count(b"\n")
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield whole lines of about so many bytes."""
    rest = b""
    while block := file.read(size):
        whole, line, new = block.rpartition(b"\n")
        if line:
            yield rest + whole + line
            rest = new
        else:
            rest += block
    if rest:
        yield rest + b"\n"


class _Chunk:
    """Whole lines as bytes, with room for a word before and behind them."""

    def __init__(self, text: bytes, columns: int, path: Path, before: int) -> None:
        text = text.replace(b"\r\n", b"\n") if b"\r" in text else text
        padded = bytes(2 * _WORD) + text + bytes(_WORD)
        self.bytes = np.frombuffer(padded, dtype=np.uint8)
        # The word from each byte on; that of a column's first letters, or of its last ones.
        self.words = np.ndarray(len(padded) - _WORD + 1, "<u8", padded, strides=(1,))
        self.columns, self.path, self.before = columns, path, before
        self.ends, commas, nexts, ids, values, points = (
            np.flatnonzero(self.bytes == each)
            for each in (_LINE, _COMMA, _NEXT, _ID, _VALUE, _POINT)
        )
        self.starts = np.concatenate([[2 * _WORD], self.ends[:-1] + 1])
        wanted = columns + 2
        counts = np.diff(np.searchsorted(commas, np.append(self.starts, self.ends[-1] + 1)))
        self.check(counts == wanted, f"has {{}} commas and not {wanted}", counts)
        self.commas = commas.reshape(len(self.ends), wanted).T
        # A line's features lie between its last comma and its end.
        features = self.commas[-1] + 1
        some = features < self.ends
        first = features[some]
        order = np.searchsorted(nexts, first)  # of the separators before each line's first feature
        self.first = np.insert(nexts + 1, order, first)
        self.last = np.insert(nexts, np.searchsorted(nexts, self.ends[some]), self.ends[some])
        self.offsets = np.zeros(len(self.ends) + 1, dtype=np.int64)
        lengths = np.zeros(len(self.ends), dtype=np.int64)
        lengths[some] = 1 + np.diff(np.append(order, len(nexts)))
        np.cumsum(lengths, out=self.offsets[1:])
        self.ids, self.values, self.points = ids, values, points

    def lines(self) -> Lines:
        """Return what the lines hold."""
        begins = [self.starts, *(comma + 1 for comma in self.commas[:-1])]
        columns = [
            self._whole(begin, end, None, "a column before the features is no whole number")
            for at, (begin, end) in enumerate(zip(begins, self.commas, strict=True))
            if at != self.columns
        ]
        lengths = np.diff(self.offsets)
        self.check(
            columns[-1] == lengths, "says that it has {} features, and has others", columns[-1]
        )
        line = np.repeat(np.arange(len(lengths)), lengths)
        count = len(self.first)
        if not (len(self.ids) == len(self.values) == count):
            found = np.searchsorted(self.ends, self.ids), np.searchsorted(self.ends, self.values)
            many = [np.bincount(each, minlength=len(lengths)) for each in found]
            both = (many[0] == lengths) & (many[1] == lengths)
            self.check(both, "has a feature without id or value")
        sound = (self.first < self.ids) & (self.ids < self.values) & (self.values < self.last)
        self.check_features(sound, line, "has a feature that is not field, id and value")
        size = self.ids - self.first
        self.check_features(size <= _WORD, line, "has a field of more than eight letters")
        field = self.words[self.first] & (_ALL >> ((_WORD - size) * _WORD).astype(np.uint64))
        return Lines(
            np.stack(columns),
            self._index(begins[self.columns], self.commas[self.columns]),
            self.offsets,
            field,
            self._whole(self.ids + 1, self.values, line, "has an id that is no whole number"),
            self._decimal(self.values + 1, self.last, line),
        )

    def check(self, good: np.ndarray, what: str, shown: np.ndarray | None = None) -> None:
        """Refuse the first line that is not good."""
        if not good.all():
            line = int(np.argmin(good))
            text = what.format("" if shown is None else shown[line])
            raise DataError(
                f"{self.path.name}: line {self.before + line + 1:,} {text}: is the file whole, and "
                "as it was published?"
            )

    def check_features(self, good: np.ndarray, line: np.ndarray | None, what: str) -> None:
        """Refuse the first line with a feature that is not good; without `line`, each is a line."""
        if not good.all():
            bad = int(np.argmin(good))
            whole = np.ones(len(self.ends), dtype=bool)
            whole[bad if line is None else line[bad]] = False
            self.check(whole, what)

    def _whole(
        self, start: np.ndarray, end: np.ndarray, line: np.ndarray | None, what: str
    ) -> np.ndarray:
        number, good = self._digits(start, end)
        self.check_features(good & (end > start), line, what)
        return number

    def _digits(self, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return up to 16 digits as a number, 0 without any, and whether that is what there is."""
        number, good = self._word(end, end - start)
        long = np.flatnonzero(end - start > _WORD)
        if len(long):
            upper, well = self._word(end[long] - _WORD, end[long] - start[long] - _WORD)
            number[long] += upper * 100_000_000
            good[long] &= well & (end[long] - start[long] <= 2 * _WORD)
        return number, good

    def _word(self, end: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the last `size` digits before a place, at most eight, as a number."""
        shift = ((_WORD - np.minimum(size, _WORD)) * _WORD).astype(np.uint64)
        kept = np.where(size > 0, _ALL << np.minimum(shift, np.uint64(63)), np.uint64(0))
        digits = (self.words[end - _WORD] & kept) - (np.uint64(0x3030303030303030) & kept)
        over = (digits + np.uint64(0x7676767676767676)) | digits
        good = (over & np.uint64(0x8080808080808080)) == 0
        # Pairs of digits, then fours, then all eight.
        pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
        low = (pairs & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
        high = ((pairs >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(
            0x0000271000000001
        )
        return ((low + high) >> np.uint64(32)).astype(np.int64), good

    def _decimal(self, start: np.ndarray, end: np.ndarray, line: np.ndarray) -> np.ndarray:
        """Return numbers with a point and without as the nearest float32 of their float64."""
        point = self.points
        if len(point) != len(end) or not ((point >= start) & (point < end)).all():
            place = np.searchsorted(start, self.points, side="right") - 1
            inside = (place >= 0) & (self.points < end[place])
            point = end.copy()
            point[place[inside][::-1]] = self.points[inside][::-1]  # the first point counts
        whole, good = self._digits(start, point)
        begin = np.minimum(point + 1, end)
        part, fine = self._digits(begin, end)
        scale = 10.0 ** np.arange(17)
        behind = np.minimum(end - begin, 16)
        # Exact, and divided once, so that it is rounded as Python rounds the text.
        found = (whole * scale[behind] + part) / scale[behind]
        exact = (
            good
            & fine
            & ((point > start) | (end > begin))
            & (end - begin <= 15)
            & (whole * scale[behind] < 2**53)
        )
        for at in np.flatnonzero(~exact):  # a sign, an exponent, more digits than 15
            text = self.bytes[start[at] : end[at]].tobytes()
            try:
                found[at] = float(text)
            except ValueError:
                self.check_features(
                    np.arange(len(found)) != at, line, "has a value that is no number"
                )
        with np.errstate(over="ignore"):
            single = found.astype(np.float32)
        self.check_features(np.isfinite(single), line, "has a value that is not finite")
        return single

    def _index(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return 16 hexadecimal digits as a number."""
        self.check(end - start == 2 * _WORD, "has an index that has not 16 hexadecimal digits")
        found = np.zeros(len(start), dtype=np.uint64)
        for half in (start, start + _WORD):
            word = self.words[half]
            letter = (word >> np.uint64(6)) & np.uint64(0x0101010101010101)
            digit = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) + letter * np.uint64(9)
            again = np.where(self._hexadecimal(word), digit, np.uint64(0xFFFFFFFFFFFFFFFF))
            self.check(again == digit, "has an index that has not 16 hexadecimal digits")
            twos = (digit << np.uint64(4) | digit >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
            fours = (twos << np.uint64(8) | twos >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
            eight = (fours << np.uint64(16) | fours >> np.uint64(32)) & np.uint64(0xFFFFFFFF)
            found = (found << np.uint64(32)) | eight
        return found

    def _hexadecimal(self, words: np.ndarray) -> np.ndarray:
        """Return whether all letters of words are 0-9 or a-f."""
        letters = words.copy().view(np.uint8).reshape(-1, _WORD)
        digit = (letters >= ord("0")) & (letters <= ord("9"))
        good = digit | ((letters >= ord("a")) & (letters <= ord("f")))
        return np.asarray(good.all(1))
