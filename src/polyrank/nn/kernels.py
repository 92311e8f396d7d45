"""Compiled loops over embedding rows on the CPU: the look-up, and the update of the optimisers.

A table is one thread's, so nothing is atomic and no result depends on the number of threads. Rows
are found again by `slot`, an array that says of each row of the pack where its sum lies: a sort of
the ids would cost more than the update. All kernels are in this file, because a cached kernel is
compiled anew when its own file changes and not when one does that it calls into.

Letters: F id features, S sequences, B rows of the batch, W columns of x, K look-ups (a feature or a
sequence each), U tables, T threads, R rows of the pack, w columns of the pack, N look-ups of one
table in this batch, at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, prange, set_num_threads, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

logger = logging.getLogger(__name__)

# Poolings of a look-up; ONE is a field. From WEIGHTED_SUM on each id has a weight.
ONE, SUM, MEAN, LAST, WEIGHTED_SUM, WEIGHTED_MEAN, WEIGHTED_LAST = range(7)
ADAM, ADAGRAD, ROWWISE_ADAGRAD, SGD = range(4)  # rules
AHEAD = 32  # look-ups by which memory is asked for a row before it is needed

# Held while a kernel runs: two at once abort the process where numba has neither OpenMP nor TBB.
ONE_AT_A_TIME = Lock()


@contextmanager
def threads(count: int) -> Generator[None]:
    """Let kernels that this thread calls use some threads, at most as many as numba has."""
    before = get_num_threads()
    set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # pyrefly: ignore[missing-attribute]
    try:
        yield
    finally:
        set_num_threads(before)


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """Compile on first call, and keep the result on disk where a folder for it can be written."""
    # Dividing by 0 gives inf, as in torch; a check of each division would forbid whole vectors.
    kept: dict[str, Any] = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Callable) -> Any:
        try:
            return njit(**kept, cache=True)(function)
        except RuntimeError:  # numba has found no place
            if not _UNCACHED:
                logger.warning(
                    "no folder for compiled kernels can be written: they are compiled anew in each "
                    "process, which takes some seconds. Set NUMBA_CACHE_DIR to a writable folder"
                )
            _UNCACHED.append(function.__name__)
            return njit(**kept)(function)

    return decorate


_UNCACHED: list[str] = []


def constant(width: int) -> Any:
    """Return a width that the compiler knows, as a tuple's length, where that makes whole vectors.

    Its loops become one or two instructions. Odd widths share one compilation.
    """
    return (0,) * width if width % 4 == 0 else width


def _columns(width: Any) -> int:
    raise NotImplementedError  # only called from compiled code


@overload(_columns)
def _(width):
    if isinstance(width, types.BaseTuple):
        return lambda width: len(width)
    return lambda width: width


def _prefetch(_: Any, array: Any, row: Any) -> Any:
    """Ask memory for array[row] without waiting for it: LLVM's prefetch, for writing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, index = signature.args
        struct = context.make_array(kind)(context, builder, arguments[0])
        zeros = [context.get_constant(types.intp, 0)] * (kind.ndim - 1)
        where = [context.cast(builder, arguments[1], index, types.intp), *zeros]
        pointer = cgutils.get_item_pointer(context, builder, kind, struct, where, wraparound=False)
        byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        function = cgutils.get_or_insert_function(builder.module, form, "llvm.prefetch.p0")
        how = [ir.Constant(whole, number) for number in (1, 3, 1)]
        builder.call(function, [builder.bitcast(pointer, byte), *how])
        return context.get_dummy_value()

    return types.void(array, row), generate


ask_for: Any = intrinsic(_prefetch)


@compiled(parallel=True)
def look_up(ids, bag_ids, bag_starts, bag_weights, lookups, weight, out, threads, width):
    """Write the embeddings of a pack into its columns of x; return how many ids are no rows.

    `lookups` has of each one its row of `ids` or `bag_starts`, its first column of x and its
    pooling, `bag_starts` where each bag begins and ends in `bag_ids`, `bag_weights` the weight of
    each of these where any pooling is weighted, `width` what `constant` returned.

    Shape:
        ids: int32 (F, B) · bag_ids: int32 (total,) · bag_starts: int64 (S, B + 1) · bag_weights:
        float32 (total or 0,) · lookups: int64 (K, 3) · weight: float32 (R, w) · out: float32 (B, W)
    """
    columns = _columns(width)
    rows, size = weight.shape[0], out.shape[0]
    share = (size + threads - 1) // threads
    wrong = np.zeros(threads, np.int64)
    for thread in prange(threads):
        low, high = thread * share, min(size, (thread + 1) * share)
        for k in range(lookups.shape[0]):
            source, start, pooling = lookups[k]
            if pooling == ONE:
                for b in range(low, high):
                    if b + AHEAD < high:
                        ask_for(weight, ids[source, b + AHEAD])
                    row = ids[source, b]
                    if row < 0 or row >= rows:
                        wrong[thread] += 1
                        continue
                    for c in range(columns):
                        out[b, start + c] = weight[row, c]
                continue
            for b in range(low, high):
                first, last = bag_starts[source, b], bag_starts[source, b + 1]
                if pooling in (LAST, WEIGHTED_LAST):
                    first = max(first, last - 1)
                for c in range(columns):
                    out[b, start + c] = 0
                for i in range(first, last):
                    if i + AHEAD < len(bag_ids):
                        ask_for(weight, bag_ids[i + AHEAD])
                    row = bag_ids[i]
                    if row < 0 or row >= rows:
                        wrong[thread] += 1
                        continue
                    if pooling >= WEIGHTED_SUM:
                        x = bag_weights[i]
                        for c in range(columns):
                            out[b, start + c] += x * weight[row, c]
                        continue
                    for c in range(columns):
                        out[b, start + c] += weight[row, c]
                if pooling == MEAN and last > first:
                    for c in range(columns):
                        out[b, start + c] /= np.float32(last - first)
                elif pooling == WEIGHTED_MEAN:
                    total = _total(bag_weights, first, last)
                    for c in range(columns):
                        out[b, start + c] /= total
    return wrong.sum()


@compiled()
def _total(weights, first, last):
    """Return the sum of some absolute weights; 1 where it is 0, for what is divided is 0 then."""
    total = np.float32(0)
    for i in range(first, last):
        total += abs(weights[i])
    return total if total > 0 else np.float32(1)


@compiled(parallel=True)
def find_rows(
    ids, bag_ids, bag_starts, lookups, starts, order, places, total, holders, keys, values, new_ids,
    new_bag_ids, rows, lines,
):  # fmt: skip
    """Number the rows that a batch looks up, each table's in the order of first sight.

    `lookups` has of each one its row of `ids` or `bag_starts`, its pooling, and what takes an id to
    a row, of `total` ones; `order` the tables of each thread, ended by −1. Look-up i of a table
    finds its row at rows[places[u] + new_ids[i]], and `lines` has how many rows of each table each
    of the `holders` has: row r is of process r mod holders. `keys` and `values` are scratch: of
    2^n places, twice as many as one table's look-ups. Returns how many ids are no rows.

    Shape:
        lookups: int64 (K, 3) · starts: int64 (U + 1,) · order: int64 (T, U) · places: int64
        (U + 1,) · keys, values: int32 (T, 2^n) · new_ids: int32 (F, B) · new_bag_ids: int32
        (total,) · rows: int32 (N,) · lines: int32 (holders, U)
    """
    wrong = np.zeros(order.shape[0], np.int64)
    for thread in prange(order.shape[0]):
        key, value = keys[thread], values[thread]
        for u in order[thread]:
            if u < 0:
                break
            key[:] = -1
            found, count = rows[places[u] : places[u + 1]], 0
            for k in range(starts[u], starts[u + 1]):
                source, pooling, shift = lookups[k]
                if pooling == ONE:
                    for b in range(ids.shape[1]):
                        row = ids[source, b] + shift
                        if row < 0 or row >= total:
                            wrong[thread] += 1
                            continue
                        s = _number(row, key, value, found, count)
                        count = max(count, s + 1)
                        new_ids[source, b] = s
                    continue
                for b in range(bag_starts.shape[1] - 1):
                    low, high = bag_starts[source, b], bag_starts[source, b + 1]
                    if pooling in (LAST, WEIGHTED_LAST):
                        low = max(low, high - 1)
                    for i in range(low, high):
                        row = bag_ids[i] + shift
                        if row < 0 or row >= total:
                            wrong[thread] += 1
                            continue
                        s = _number(row, key, value, found, count)
                        count = max(count, s + 1)
                        new_bag_ids[i] = s
            for s in range(count):
                lines[found[s] % holders, u] += 1
    return wrong.sum()


@compiled(parallel=True)
def deal_rows(
    bag_starts, lookups, starts, order, places, holders, lines, begins, rows, number, new_ids,
    new_bag_ids, dealt,
):  # fmt: skip
    """Number the rows anew, those of each process together, and of each table within them.

    After `find_rows`, whose arguments these are; `begins` has where the rows of each process and
    table begin. The i-th row that is looked up is the dealt[i]-th that its process holds.

    Shape:
        begins: int64 (holders, U) · number: int32 (N,) · dealt: int32 (rows found,)
    """
    for thread in prange(order.shape[0]):
        for u in order[thread]:
            if u < 0:
                break
            found, numbers = rows[places[u] : places[u + 1]], number[places[u] : places[u + 1]]
            at = begins[:, u].copy()
            for s in range(lines[:, u].sum()):
                holder = found[s] % holders
                numbers[s] = at[holder]
                dealt[at[holder]] = found[s] // holders
                at[holder] += 1
            for k in range(starts[u], starts[u + 1]):
                source, pooling, _ = lookups[k]
                if pooling == ONE:
                    for b in range(new_ids.shape[1]):
                        new_ids[source, b] = numbers[new_ids[source, b]]
                    continue
                for b in range(bag_starts.shape[1] - 1):
                    low, high = bag_starts[source, b], bag_starts[source, b + 1]
                    if pooling in (LAST, WEIGHTED_LAST):
                        low = max(low, high - 1)
                    for i in range(low, high):
                        new_bag_ids[i] = numbers[new_bag_ids[i]]


@compiled()
def _number(row, key, value, found, count):
    """Return the number of a row: `count`, the next one, where the row is new."""
    mask = len(key) - 1
    # Fibonacci hashing: the product's high bits.
    at = (np.uint64(row) * np.uint64(11400714819323198485) >> np.uint64(32)) & np.uint64(mask)
    place = np.int64(at)
    while key[place] != row:
        if key[place] < 0:
            key[place], value[place], found[count] = row, count, row
            return count
        place = (place + 1) & mask
    return value[place]


@compiled()
def _place(row, slot, touched, count):
    """Return where the sum of a row lies: `count`, the next place, where the row is new."""
    s = slot[row]
    if s < 0:
        slot[row] = count
        touched[count] = row
        return count
    return s


@compiled()
def _summed(
    ids, bag_ids, bag_starts, bag_weights, lookups, first, last, gradient, slot, touched, touches,
    sums, width,
):  # fmt: skip
    """Add up the gradients of each row of one table; return how many rows those are.

    Row touched[s] was looked up touches[s] times and has the sum sums[s]; slot[touched[s]] = s.
    """
    columns = _columns(width)
    count, size = 0, gradient.shape[0]
    for k in range(first, last):
        source, start, pooling = lookups[k]
        if pooling == ONE:
            for b in range(size):
                if b + AHEAD < size:
                    ask_for(slot, ids[source, b + AHEAD])
                s = _place(ids[source, b], slot, touched, count)
                if s == count:
                    count += 1
                    touches[s] = 1
                    for c in range(columns):
                        sums[s, c] = gradient[b, start + c]
                else:
                    touches[s] += 1
                    for c in range(columns):
                        sums[s, c] += gradient[b, start + c]
            continue
        for b in range(size):
            low, high = bag_starts[source, b], bag_starts[source, b + 1]
            if pooling in (LAST, WEIGHTED_LAST):
                low = max(low, high - 1)
            factor = np.float32(1)
            if pooling == MEAN and high > low:
                factor /= np.float32(high - low)
            elif pooling == WEIGHTED_MEAN:
                factor /= _total(bag_weights, low, high)
            for i in range(low, high):
                if i + AHEAD < len(bag_ids):
                    ask_for(slot, bag_ids[i + AHEAD])
                s = _place(bag_ids[i], slot, touched, count)
                if s == count:
                    count += 1
                    touches[s] = 0
                    for c in range(columns):
                        sums[s, c] = 0
                touches[s] += 1
                x = factor if pooling < WEIGHTED_SUM else factor * bag_weights[i]
                for c in range(columns):
                    sums[s, c] += gradient[b, start + c] * x
    return count


@compiled(parallel=True)
def update(
    ids, bag_ids, bag_starts, bag_weights, lookups, starts, order, first_rows,
    gradient, slot, touched, touches, sums, weight, first, second, rule, numbers, every_row,
    counts, prior, decay, width,
):  # fmt: skip
    """Step the rows of a pack that the batch looked up, or `every_row`, by a gradient of 0.

    The first arguments are those of `look_up`, with the look-ups of a table together. `starts` has
    the look-ups of each table, `first_rows` where it begins in the pack, `order` the tables of each
    thread, ended by −1. `slot` is −1 everywhere, before and after; `touched` and `sums` are scratch
    of each thread, the latter with a last line of zeros; `first` and `second` are the optimiser's
    state, of as many columns as the rule needs, and `numbers` what its function names.

    Shape:
        starts: int64 (U + 1,) · order: int64 (T, U) · first_rows: int64 (U + 1,) · gradient:
        float32 (B, W) · slot: int32 (R,) · touched, touches: int32 (T, N) · sums: float32
        (T, N + 1, w) · first, second: float32 (R or 0, w or 1) · numbers: float32 (n,) · counts:
        float32 (R or 0,)
    """
    for thread in prange(order.shape[0]):
        rows, times, sum_ = touched[thread], touches[thread], sums[thread]
        for u in order[thread]:
            if u < 0:
                break
            count = _summed(
                ids, bag_ids, bag_starts, bag_weights, lookups, starts[u], starts[u + 1], gradient,
                slot, rows, times, sum_, width,
            )  # fmt: skip
            _stepped(
                rows, times, sum_, count, first_rows[u], first_rows[u + 1], slot, weight, first,
                second, rule, numbers, every_row, counts, prior, decay, width,
            )  # fmt: skip


@compiled(parallel=True)
def sum_rows(
    ids, bag_ids, bag_starts, bag_weights, lookups, starts, order, places, gradient, slot, touched,
    touches, sums, found, width,
):  # fmt: skip
    """Add up the gradients of the rows that the batch looked up, for an exchange.

    The first half of `update`, whose arguments these are. Table u writes found[u] lines of
    `touched`, `touches` and `sums`, from places[u] on; there is room for all of its look-ups.

    Shape:
        places: int64 (U + 1,) · touched, touches: int32 (N,) · sums: float32 (N, w) · found: int64
        (U,)
    """
    for thread in prange(order.shape[0]):
        for u in order[thread]:
            if u < 0:
                break
            low, high = places[u], places[u + 1]
            rows = touched[low:high]
            found[u] = _summed(
                ids, bag_ids, bag_starts, bag_weights, lookups, starts[u], starts[u + 1], gradient,
                slot, rows, touches[low:high], sums[low:high], width,
            )  # fmt: skip
            for s in range(found[u]):
                slot[rows[s]] = -1


@compiled(parallel=True)
def step_rows(
    given, given_touches, given_sums, begins, order, places, first_rows, slot, touched, touches,
    sums, weight, first, second, rule, numbers, every_row, counts, prior, decay, width,
):  # fmt: skip
    """Step the rows of a pack by what several processes found, each with its `sum_rows`.

    The second half of `update`, whose arguments these are. Process p gives the lines of table u
    from begins[p, u] to begins[p, u + 1]; their sums are taken in the order of the processes, so
    that they are the same on all of them. There is room for all lines of a table, and one line of
    zeros more at the end of `sums`.

    Shape:
        given, given_touches: int32 (M,) · given_sums: float32 (M, w) · begins: int64 (processes,
        U + 1) · places: int64 (U + 1,) · touched, touches: int32 (M,) · sums: float32 (M + 1, w)
    """
    columns = _columns(width)
    for thread in prange(order.shape[0]):
        for u in order[thread]:
            if u < 0:
                break
            low, high = places[u], places[u + 1]
            rows, times, sum_ = touched[low:high], touches[low:high], sums[low:]
            count = 0
            for p in range(begins.shape[0]):
                for i in range(begins[p, u], begins[p, u + 1]):
                    s = _place(given[i], slot, rows, count)
                    if s == count:
                        count += 1
                        times[s] = given_touches[i]
                        for c in range(columns):
                            sum_[s, c] = given_sums[i, c]
                    else:
                        times[s] += given_touches[i]
                        for c in range(columns):
                            sum_[s, c] += given_sums[i, c]
            _stepped(
                rows, times, sum_, count, first_rows[u], first_rows[u + 1], slot, weight, first,
                second, rule, numbers, every_row, counts, prior, decay, width,
            )  # fmt: skip


@compiled()
def _stepped(
    rows, times, sums, count, first_row, last_row, slot, weight, first, second, rule, numbers,
    every_row, counts, prior, decay, width,
):  # fmt: skip
    """Step the `count` rows of a table that have sums, or `every_row`; free their slots.

    The last line of `sums` is of zeros.
    """
    by_count = counts.shape[0] > 0
    if every_row:
        for row in range(first_row, last_row):
            s = slot[row] if slot[row] >= 0 else len(sums) - 1
            keep, pull = np.float32(1), numbers[0]
            if by_count and slot[row] >= 0:
                share = min(np.float32(1), np.float32(times[s]) / counts[row])
                keep, pull = np.exp(-decay * share), pull + prior * share
            slot[row] = -1
            _step(weight, first, second, row, sums, s, rule, numbers, keep, pull, width)
        return
    for s in range(count):
        if s + AHEAD < count:
            row = rows[s + AHEAD]
            ask_for(slot, row)
            ask_for(weight, row)
            ask_for(first, row)
            ask_for(second, row)
            if by_count:
                ask_for(counts, row)
        row = rows[s]
        slot[row] = -1
        keep, pull = np.float32(1), numbers[0]
        if by_count:
            share = min(np.float32(1), np.float32(times[s]) / counts[row])
            keep, pull = np.exp(-decay * share), pull + prior * share
        _step(weight, first, second, row, sums, s, rule, numbers, keep, pull, width)


# `keep` is what decay leaves of the row, `pull` the coefficient of what is left in the gradient.


@compiled()
def _step(weight, first, second, row, sums, s, rule, numbers, keep, pull, width):
    if rule == ADAM:
        _adam(weight, first, second, row, sums, s, numbers, keep, pull, width)
    elif rule == ADAGRAD:
        _adagrad(weight, first, row, sums, s, numbers, keep, pull, width)
    elif rule == ROWWISE_ADAGRAD:
        _rowwise_adagrad(weight, first, row, sums, s, numbers, keep, pull, width)
    else:
        _sgd(weight, row, sums, s, numbers, keep, pull, width)


@compiled()
def _adam(weight, m, v, row, sums, s, numbers, keep, pull, width):
    add1, keep2, add2 = numbers[1], numbers[2], numbers[3]
    size, correction, eps = numbers[4], numbers[5], numbers[6]
    for c in range(_columns(width)):
        w = keep * weight[row, c]
        g = sums[s, c] + pull * w
        first = m[row, c] + add1 * (g - m[row, c])
        second = keep2 * v[row, c] + add2 * g * g
        m[row, c], v[row, c] = first, second
        weight[row, c] = w - size * first / (np.sqrt(second) * correction + eps)


@compiled()
def _adagrad(weight, total, row, sums, s, numbers, keep, pull, width):
    lr, eps = numbers[1], numbers[2]
    for c in range(_columns(width)):
        w = keep * weight[row, c]
        g = sums[s, c] + pull * w
        squares = total[row, c] + g * g
        total[row, c] = squares
        weight[row, c] = w - lr * g / (np.sqrt(squares) + eps)


@compiled(fastmath={"reassoc"})  # a sum in the order of rows would be one column at a time
def _rowwise_adagrad(weight, total, row, sums, s, numbers, keep, pull, width):
    lr, eps = numbers[1], numbers[2]
    columns = _columns(width)
    squares = np.float32(0)
    for c in range(columns):
        g = sums[s, c] + pull * (keep * weight[row, c])
        squares += g * g
    squares = total[row, 0] + squares / np.float32(columns)
    total[row, 0] = squares
    size = lr / (np.sqrt(squares) + eps)
    for c in range(columns):
        w = keep * weight[row, c]
        weight[row, c] = w - size * (sums[s, c] + pull * w)


@compiled()
def _sgd(weight, row, sums, s, numbers, keep, pull, width):
    lr = numbers[1]
    for c in range(_columns(width)):
        w = keep * weight[row, c]
        weight[row, c] = w - lr * (sums[s, c] + pull * w)
