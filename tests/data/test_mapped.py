"""Mapped arrays: the pages that are asked for are those of the rows."""

import mmap

import numpy as np
import pytest

from polyrank.data import mapped

PAGE = mmap.PAGESIZE


class Recorded(mmap.mmap):
    """A mapped file that notes what the system is told."""

    def __init__(self, *_, **__):
        super().__init__()
        self.told = []

    def madvise(self, *advice):
        self.told.append(advice)
        return super().madvise(*advice)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(np.arange(16 * PAGE // 4, dtype=np.int32).tobytes())
    with path.open("rb") as opened:
        yield Recorded(opened.fileno(), 0, access=mmap.ACCESS_COPY)


@pytest.fixture
def array(file):
    return np.ndarray(len(file) // 4, np.int32, buffer=file)  # as numpy maps one


def test_an_array_is_mapped_and_its_file_stays_as_it_is(tmp_path):
    for count in (0, 10, 10_000):
        path = tmp_path / f"{count}.npy"
        np.save(path, np.arange(count))
        found = mapped.mapped(path)
        assert type(found) is np.ndarray
        found[:] += 1
        assert np.array_equal(found, np.arange(1, count + 1))
        assert np.array_equal(np.load(path), np.arange(count))


def test_only_the_pages_of_rows_are_expected(file, array):
    rows = PAGE // 4
    second = array.reshape(2, -1)[1]  # begins at page 8
    for some in (slice(0, rows), slice(2 * rows - 1, 2 * rows + 1), slice(5, 5)):
        mapped.expect(second[some])
    assert file.told == [
        (mmap.MADV_WILLNEED, 8 * PAGE, PAGE),
        (mmap.MADV_WILLNEED, 9 * PAGE, PAGE + 4),
    ]
    file.told.clear()
    wide = array.reshape(-1, 8)  # a row has 32 bytes
    for some in (slice(PAGE // 32, PAGE // 32 + 1), slice(15 * PAGE // 32, None)):
        mapped.expect(wide[some])
    assert file.told == [
        (mmap.MADV_WILLNEED, PAGE, 32),
        (mmap.MADV_WILLNEED, 15 * PAGE, PAGE),
    ]


def test_only_touched_pages_are_read_and_the_file_is_as_before(file, array):
    def read():
        with mapped.no_more_than_touched([array[:5], array[5:], np.zeros(3)]):
            assert file.told == [(mmap.MADV_RANDOM,)]
            raise KeyError

    with pytest.raises(KeyError):
        read()
    assert file.told[1:] == [(mmap.MADV_NORMAL,)]


def test_an_array_in_memory_is_no_file():
    mapped.expect(np.arange(10)[:5])
    with mapped.no_more_than_touched([np.arange(10)]):
        pass
