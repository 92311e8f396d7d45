"""The machine's rates, and the lower bound on seconds per sample that they imply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from time import perf_counter

import numpy as np
import torch

# A sample's fixed costs: floating-point operations, bytes, and bytes times the batch's share of
# unique rows (weights and optimiser state, read and written).
COSTS = {"ESMM": (72_000, 6_000, 8_800), "MMoE": (88_000, 2_700, 8_800)}
# Columns into the first dense layer and out of it, both towers or all experts and gates at once.
GEMM = {"ESMM": (368, 32), "MMoE": (92, 144)}
GEMM_ROWS = 4096
SECONDS = 0.2  # of each rate


@dataclass(frozen=True)
class Rates:
    """What the machine does per second with a number of threads.

    Args:
        triad: bytes of a = b + s·c, 8 read for each 4 written.
        random_rows: reads of 64 bytes at random out of 1.4 million such rows; None without numba.
        gemm: floating-point operations of each model's first layer, forward and backward.
    """

    triad: float
    random_rows: float | None
    gemm: dict[str, float]

    def to_table(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def samples(self, model: str, unique: float) -> float:
        """Return samples per second of a model that moves its bytes and then multiplies."""
        operations, fixed, rows = COSTS[model]
        return 1 / ((fixed + rows * unique) / self.triad + operations / self.gemm[model])


def measured(threads: int) -> Rates:
    """Return the rates with this many threads."""
    torch.set_num_threads(threads)
    return Rates(_triad(), _random_rows(threads), {name: _gemm(*GEMM[name]) for name in GEMM})


def typical(found: Sequence[Rates]) -> Rates:
    """Return the median of each rate."""
    reads = [each.random_rows for each in found if each.random_rows is not None]
    return Rates(
        triad=median(each.triad for each in found),
        random_rows=median(reads) if reads else None,
        gemm={name: median(each.gemm[name] for each in found) for name in GEMM},
    )


def _median(call: Callable[[], object]) -> float:
    """Return the median seconds of a call, after one uncounted call."""
    call()
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        started = perf_counter()
        call()
        found.append(perf_counter() - started)
    return median(found)


def _triad() -> float:
    a, b, c = (torch.ones(16 << 20) for _ in range(3))
    return 3 * 4 * len(a) / _median(lambda: torch.add(b, c, alpha=3.0, out=a))


def _gemm(inputs: int, outputs: int) -> float:
    x = torch.randn(GEMM_ROWS, inputs)
    weight, gradient = torch.randn(inputs, outputs), torch.randn(GEMM_ROWS, outputs)
    results = torch.empty(GEMM_ROWS, outputs), torch.empty_like(weight), torch.empty_like(x)

    def layer() -> None:
        torch.mm(x, weight, out=results[0])
        torch.mm(x.T, gradient, out=results[1])
        torch.mm(gradient, weight.T, out=results[2])

    return 3 * 2 * GEMM_ROWS * inputs * outputs / _median(layer)


def _random_rows(threads: int) -> float | None:
    try:
        import numba
    except ImportError:
        return None
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    total, (rows, ids) = _total_of_rows(), _rows_and_ids()
    parts = np.zeros(4 * threads, np.float32)
    return len(ids) / _median(lambda: total(rows, ids, parts))


@cache
def _total_of_rows() -> Callable[..., None]:
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def total(rows, ids, parts):
        size = len(ids) // len(parts)
        for part in numba.prange(len(parts)):
            found = np.float32(0)
            for place in range(part * size, (part + 1) * size):
                row = ids[place]
                for column in range(16):
                    found += rows[row, column]
            parts[part] = found

    return total


@cache
def _rows_and_ids() -> tuple[np.ndarray, np.ndarray]:
    """Rows of 64 bytes aligned to cache lines, and the rows to read."""
    buffer = np.ones(1_400_000 * 16 + 16, np.float32)
    skip = -(buffer.ctypes.data // 4) % 16
    rows = buffer[skip : skip + 1_400_000 * 16].reshape(-1, 16)
    return rows, np.random.default_rng(0).integers(0, len(rows), 4 << 20).astype(np.int32)
