"""A log shaped like Ali-CCP: its vocabularies, Zipf ids, rare clicks and rarer purchases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Ids of each field of the full log after the usual count filter. The sizes of 210 and of the four
# histories are not published: these bring the sum to 1.4 million rows.
VOCABULARY = {
    "101": 238_635, "121": 98, "122": 14, "124": 3, "125": 8, "126": 4, "127": 4, "128": 3,
    "129": 5, "205": 467_298, "206": 6_929, "207": 263_942, "210": 74_000, "216": 106_399,
    "508": 5_888, "509": 104_830, "702": 51_878, "853": 37_148, "301": 4,
    "109_14": 6_929, "110_14": 12_000, "127_14": 12_000, "150_14": 12_000,
}  # fmt: skip
ITEM = ("129", "205", "206", "207", "210", "216")
EXPONENT = 0.9
CLICKED, BOUGHT = 0.04, 0.1  # of the rows, of the clicks


@dataclass(frozen=True, eq=False)
class Log:
    """Encoded rows.

    Args:
        ids: one column of row numbers per field.
        click: 0 or 1.
        buy: 0 or 1, and 1 only where click is 1.

    Shape:
        int64 (rows,) · float32 (rows,) · float32 (rows,)
    """

    ids: dict[str, np.ndarray]
    click: np.ndarray
    buy: np.ndarray

    def __len__(self) -> int:
        return len(self.click)

    def first(self, rows: int) -> Log:
        """Return views of the first rows."""
        ids = {name: column[:rows] for name, column in self.ids.items()}
        return Log(ids, self.click[:rows], self.buy[:rows])


def drawn(rows: int, seed: int) -> Log:
    """Return a log; frequent ids are spread over their table, and labels are independent of ids."""
    random = np.random.default_rng(seed)
    ids = {name: zipf(size, rows, random) for name, size in VOCABULARY.items()}
    click = random.random(rows) < CLICKED
    buy = click & (random.random(rows) < BOUGHT)
    return Log(ids, click.astype(np.float32), buy.astype(np.float32))


def zipf(size: int, rows: int, random: np.random.Generator) -> np.ndarray:
    """Return ids below `size` whose frequencies fall as rank^-0.9."""
    ends = np.cumsum(np.arange(1, size + 1) ** -EXPONENT)
    rank = np.searchsorted(ends, random.random(rows) * ends[-1])
    return random.permutation(size)[np.minimum(rank, size - 1)]


def unique_share(log: Log, batch: int, seed: int) -> float:
    """Return the share of distinct rows among the look-ups of a shuffled batch."""
    order = np.random.default_rng(seed).permutation(len(log))
    batches = min(len(log) // batch, 20)
    found = [
        len(np.unique(column[order[start : start + batch]]))
        for start in range(0, batches * batch, batch)
        for column in log.ids.values()
    ]
    return sum(found) / (batches * batch * len(log.ids))
