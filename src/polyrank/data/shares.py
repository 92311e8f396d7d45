"""How the rows of an epoch are dealt out to several processes.

An epoch of S streams goes in steps; step k is the joined batch of the k-th batches of all streams.
What it holds follows from (seed, epoch, S) alone, whoever reads the streams: an epoch that S
processes began can be ended by more or by fewer, and no row is met twice or left out.

A table in memory has one permutation, of which the joined batch of S·B rows takes the next, B for
each stream: the joined batches are those of one process with batches of S·B rows. A table with a
window is cut, in the order of its runs, into S streams of the same number of rows, so that each
process reads its own part of the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Which of the streams of an epoch are read here.

    Args:
        own: their numbers, from 0, in order; all others are read elsewhere.
        streams: of the epoch.

    Examples:
        >>> Share.of(rank=1, ranks=2, streams=4)
        Share(own=(1, 3), streams=4)
    """

    own: tuple[int, ...] = (0,)
    streams: int = 1

    @classmethod
    def of(cls, rank: int, ranks: int, streams: int) -> Share:
        """Return the streams of one of several processes: every one after so many others."""
        return cls(tuple(range(rank, streams, ranks)), streams)

    def steps(self, rows: int, size: int) -> int:
        """Return the steps of an epoch over some rows, with batches of `size` rows a stream."""
        return -(-rows // (size * self.streams))

    def rows(self, step: int, rows: int, size: int, *, parted: bool) -> int:
        """Return the rows of the joined batch of a step, counted from 0.

        Examples:
            >>> [Share((0,), 2).rows(step, 10, 3, parted=False) for step in range(2)]
            [6, 4]
        """
        return sum(
            min(max(end - start - step * size, 0), size)
            if parted
            else min(max(rows - (step * self.streams + stream) * size, 0), size)
            for stream, (start, end) in enumerate(self.parts(rows, size))
        )

    def parts(self, rows: int, size: int) -> list[tuple[int, int]]:
        """Return where each stream of a parted table begins and ends, in the order of its runs."""
        each = self.steps(rows, size) * size
        return [
            (min(stream * each, rows), min((stream + 1) * each, rows))
            for stream in range(self.streams)
        ]


WHOLE = Share()
