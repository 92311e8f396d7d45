"""A stable 64-bit hash of ids: ours, so that a saved model finds its rows for ever.

Version 1. The same id has the same hash in whatever type and file it is written:

- What is a plain integer within 64 bits (7, 7.0, "7", "7.0", but not "007") is that integer, and a
  boolean, or its text, is 1 or 0. An integer i hashes to mix(i + G).
- Anything else is its text in UTF-8, to the letter; a number with a fraction is the shortest text
  that reads back to it, as Python writes it. Text of n bytes starts at mix(n + T), and each 8 bytes
  of it, little-endian, the last padded with zeros, give h ← mix((h xor word) + G).

mix is the finaliser of splitmix64, all arithmetic modulo 2^64. Changing any of this is a new
`VERSION`, which a bundle names.

Reference:
    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, section 5.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from polyrank.features.bags import offsets_of
from polyrank.features.ids import as_type

VERSION = 1
# Rows hashed at once, so that the work space of a column of texts stays small.
_CHUNK_ROWS = 262_144
_G = np.uint64(0x9E3779B97F4A7C15)
_T = np.uint64(0xD1B54A32D192ED03)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def buckets(plain: pl.Series, count: int) -> np.ndarray:
    """Return the bucket, 0 … count − 1, of each plain id; −1 where it is null."""
    found = (stable64(plain) % np.uint64(count)).astype(np.int32)
    found[plain.is_null().to_numpy()] = -1
    return found


def stable64(plain: pl.Series) -> np.ndarray:
    """Return the uint64 hash of each plain id; that of a null means nothing."""
    parts = [
        _hashed(plain.slice(start, _CHUNK_ROWS)) for start in range(0, len(plain), _CHUNK_ROWS)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def _hashed(plain: pl.Series) -> np.ndarray:
    integers = _integers(plain)
    found = _mix(integers.fill_null(0).to_numpy().view(np.uint64) + _G)
    others = integers.is_null() & plain.is_not_null()
    if others.any():
        texts = plain.filter(others)
        if texts.dtype != pl.String:
            texts = pl.Series(map(repr, texts.to_list()), dtype=pl.String)
        found[others.to_numpy()] = _of_texts(texts)
    return found


def _integers(plain: pl.Series) -> pl.Series:
    """Plain integers as Int64, null elsewhere; a whole float is one up to 2^63, not only to 2^53.

    Whether other ids are whole, a hash cannot know: it looks at one value.
    """
    if plain.dtype != pl.Float64:
        return as_type(plain, "int")
    whole = (plain == plain.floor()) & (plain.abs() < 2.0**63)
    return plain.set(~whole.fill_null(value=False), None).cast(pl.Int64, strict=False)


def _of_texts(texts: pl.Series) -> np.ndarray:
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    words = -(-lengths // 8)
    first = offsets_of(words)
    # Each text moved to the word at which it begins; what is left of its last word stays 0.
    padded = np.zeros(8 * int(first[-1]), dtype=np.uint8)
    moved = np.repeat(8 * first[:-1] - offsets_of(lengths)[:-1], lengths)
    moved += np.arange(len(moved))
    padded[moved] = np.frombuffer(texts.str.join("").item().encode(), dtype=np.uint8)
    read = padded.view("<u8")
    # The longest first, so that those that have a next word are the first few.
    order = np.argsort(-words, kind="stable")
    left = -words[order]
    state, starts = _mix(lengths[order].astype(np.uint64) + _T), first[:-1][order]
    for word in range(int(words.max())):
        active = int(np.searchsorted(left, -word))
        state[:active] = _mix((state[:active] ^ read[starts[:active] + word]) + _G)
    found = np.empty_like(state)
    found[order] = state
    return found


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
