"""Compiled loops of wide rows: one reads what a batch's ids say, one updates them.

A row of the state is one id of one feature: for each of Q tables and T outputs its weight, the
curvature of the last pass and that of this one, each filled up to P numbers, then for each output
the sums S, H (and J where that is not H) of which the prior is estimated. All of a row lies
together, since a batch touches rows in random order. A feature's rows are one thread's, so nothing
is atomic and no result depends on the number of threads. The maths is in docs/wide.md.

Letters: F id features, G bags, B rows of the batch, K slots (a feature's or a bag's rows), Q tables
(the folds, then the full one), T outputs of heads, P ≥ Q·T, R rows of all slots, L labels, W
columns of x.
"""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
from numba import prange

from polyrank.nn.kernels import (
    AHEAD,
    LAST,
    MEAN,
    ONE,
    WEIGHTED_LAST,
    WEIGHTED_MEAN,
    WEIGHTED_SUM,
    ask_for,
    compiled,
)

NOWHERE = np.iinfo(np.int64).min
LOGISTIC, GAUSSIAN, POISSON, SOFTMAX = range(4)  # likelihoods that have a curvature
WIDEST = np.float32(20)  # of a Poisson head's logarithm, as of its likelihood


@compiled(parallel=True)
def read_own(
    ids, bag_ids, bag_starts, bag_weights, slots, effect, bias, folds, out, column, scale, margin,
    threads,
):  # fmt: skip
    """Write what the tables of each row's own fold say of it; see `read` for the arguments.

    Shape:
        effect: float32 (R, Q·T) · bias: float32 (Q·T,)
    """
    size, outputs = margin.shape
    share = (size + threads - 1) // threads
    for thread in prange(threads):
        low_row, high_row = thread * share, min(size, (thread + 1) * share)
        for b in range(low_row, high_row):
            first = folds[b] * outputs
            for t in range(outputs):
                margin[b, t] = bias[first + t]
        for k in range(slots.shape[0]):
            source, pooling, shift = slots[k]
            place = column + k * outputs
            for b in range(low_row, high_row):
                first = folds[b] * outputs
                if pooling == ONE:
                    if b + AHEAD < high_row:
                        ask_for(effect, ids[source, b + AHEAD] + shift)
                    row = ids[source, b] + shift
                    for t in range(outputs):
                        w = effect[row, first + t]
                        margin[b, t] += w
                        out[b, place + t] = scale * w
                    continue
                low, high = bag_starts[source, b], bag_starts[source, b + 1]
                if pooling in (LAST, WEIGHTED_LAST):
                    low = max(low, high - 1)
                for t in range(outputs):
                    w = np.float32(0)
                    for i in range(low, high):
                        if pooling >= WEIGHTED_SUM:
                            w += bag_weights[i] * effect[bag_ids[i] + shift, first + t]
                            continue
                        w += effect[bag_ids[i] + shift, first + t]
                    if pooling == MEAN and high > low:
                        w /= np.float32(high - low)
                    elif pooling == WEIGHTED_MEAN:
                        w *= _factor(pooling, bag_weights, low, high)
                    margin[b, t] += w
                    out[b, place + t] = scale * w


@compiled(parallel=True)
def read(
    ids, bag_ids, bag_starts, bag_weights, slots, state, bias, tables, labels, targets, weight,
    folds, chains, links, ends, numbers, sampled, out, column, scale, margin, gradient, curvature,
    damping, own, threads,
):  # fmt: skip
    """Write what each row's own fold says of it, and what the row says to every table.

    `slots` has of each one its row of `ids` or `bag_starts`, its pooling, and what takes an id of
    the packs to a row of the state. `targets` has what an output learns of the row, NaN for
    nothing; `chains` the label columns of its task's ancestors, ended by −1; `ends`, at the first
    output of a softmax, where its outputs end, and else 0. `numbers` has of an output 1 ÷ φ of
    what is no event, the scale of its weights, what is added to its margin, the weight of a row
    whose sampled root is 0 (1 for heads that descend from it), and the dispersion of a Poisson
    likelihood; `sampled` is that root's column or −1. Reads are written to `out` from `column` on,
    times `scale`.

    Shape:
        slots: int64 (K, 3) · state: float32 (R, 3P + …) · bias: float32 (Q·T,) · labels: float32
        (B, L) · targets: float32 (B, T) · weight: float32 (B or 0,) · folds: int32 (B,) · chains:
        int64 (T, D) · links, ends: int64 (T,) · numbers: float32 (T, 5) · out: float32 (B, W) ·
        margin: float32 (B, T) · gradient, curvature, damping: float32 (B, P) · own: float32
        (B, 4T): of a row's own fold the score, the curvature, that of H and the variance of J
    """
    outputs, size = chains.shape[0], labels.shape[0]
    width = tables * outputs
    share = (size + threads - 1) // threads
    for thread in prange(threads):
        z = np.empty(width, np.float32)
        for b in range(thread * share, min(size, (thread + 1) * share)):
            z[:] = bias
            reach = np.float32(1)  # 1 + Σ|x|, what damps simultaneous steps
            first = folds[b] * outputs
            for k in range(slots.shape[0]):
                source, pooling, shift = slots[k]
                place = column + k * outputs
                if pooling == ONE:
                    row = ids[source, b] + shift
                    for c in range(width):
                        z[c] += state[row, c]
                    for t in range(outputs):
                        out[b, place + t] = scale * state[row, first + t]
                    reach += np.float32(1)
                    continue
                low, high = bag_starts[source, b], bag_starts[source, b + 1]
                if pooling in (LAST, WEIGHTED_LAST):
                    low = max(low, high - 1)
                for t in range(outputs):
                    out[b, place + t] = 0
                if high <= low:
                    continue
                factor = _factor(pooling, bag_weights, low, high)
                for i in range(low, high):
                    x = factor if pooling < WEIGHTED_SUM else factor * bag_weights[i]
                    row = bag_ids[i] + shift
                    for c in range(width):
                        z[c] += x * state[row, c]
                    for t in range(outputs):
                        out[b, place + t] += scale * x * state[row, first + t]
                    reach += abs(x)
            for t in range(outputs):
                margin[b, t] = z[first + t]
            for t in range(outputs):
                for q in range(tables):
                    z[q * outputs + t] += numbers[t, 2]
            for t in range(outputs):
                if ends[t]:
                    for q in range(tables):
                        _to_probabilities(z, q * outputs + t, q * outputs + ends[t])
                y = targets[b, t]
                teaches = y == y  # false of NaN
                for d in range(chains.shape[1]):
                    if chains[t, d] < 0:
                        break
                    teaches = teaches and labels[b, chains[t, d]] == 1
                v = np.float32(0)
                if teaches:
                    v = numbers[t, 1]
                    if len(weight):
                        v *= weight[b]
                    if sampled >= 0 and labels[b, sampled] == 0:
                        v *= numbers[t, 3]
                if v == 0:
                    for q in range(tables):
                        c = q * outputs + t
                        gradient[b, c] = curvature[b, c] = damping[b, c] = 0
                    own[b, t] = own[b, outputs + t] = 0
                    own[b, 2 * outputs + t] = own[b, 3 * outputs + t] = 0
                    continue
                for q in range(tables):
                    c = q * outputs + t
                    if q == folds[b]:
                        gradient[b, c] = curvature[b, c] = damping[b, c] = 0
                    value, steep = _rest(z[c], y, links[t], numbers[t, 0], numbers[t, 4])
                    if q == folds[b]:
                        own[b, t], own[b, outputs + t] = v * value, v * steep
                        own[b, 2 * outputs + t] = v * steep
                        own[b, 3 * outputs + t] = v * v * steep
                        continue
                    gradient[b, c], curvature[b, c] = v * value, v * steep
                    damping[b, c] = v * steep * reach
            for t in range(outputs):
                if ends[t]:
                    _measure_softmax(z, folds[b] * outputs, t, ends[t], outputs, own, b)


@compiled()
def _factor(pooling, weights, low, high):
    """Return what the coefficients of a list's ids, 1 or their weights, are multiplied by."""
    x = np.float32(1)
    if pooling == MEAN and high > low:
        x /= np.float32(high - low)
    elif pooling == WEIGHTED_MEAN:
        total = np.float32(0)
        for i in range(low, high):
            total += abs(weights[i])
        if total > 0:
            x /= total
    return x


@compiled()
def _to_probabilities(z, start, end):
    """Put the softmax of logits in their place."""
    most = z[start]
    for c in range(start + 1, end):
        most = max(most, z[c])
    total = np.float32(0)
    for c in range(start, end):
        z[c] = np.float32(exp(z[c] - most))
        total += z[c]
    for c in range(start, end):
        z[c] /= total


@compiled()
def _measure_softmax(p, first, start, end, outputs, own, b):
    """Correct what a softmax's outputs say of their prior, by the probabilities of the own fold.

    Effects u of one variance move a score by p(u − Σ p·u), whose variance is p²(1 − 2p + Σ p²) of
    theirs; the score's own variance is p(1 − p).
    """
    squares = np.float32(0)
    for t in range(start, end):
        squares += p[first + t] * p[first + t]
    for t in range(start, end):
        each = p[first + t]
        apart = max(np.float32(1) - np.float32(2) * each + squares, np.float32(0))
        own[b, 2 * outputs + t] *= np.float32(sqrt(apart))
        own[b, 3 * outputs + t] *= max(np.float32(1) - each, np.float32(0))


@compiled()
def _rest(z, y, link, precision, dispersion):
    """Return y − p and p(1 − p), or of another likelihood its score and curvature.

    A Gaussian one has (y − z) ÷ φ and 1 ÷ φ; a Poisson one with the mean μ = e^z and a dispersion
    a has (y − μ) ÷ φ(1 + aμ) and μ ÷ φ(1 + aμ). A softmax has y − p and p, with its probability in
    place of z: its Hessian diag(p) − pp' lies below diag(p).
    """
    if link == GAUSSIAN:
        return (y - z) * precision, precision
    if link == SOFTMAX:
        return y - z, z
    if link == POISSON:
        mean = np.float32(exp(min(z, WIDEST)))
        precision /= np.float32(1) + dispersion * mean
        return (y - mean) * precision, mean * precision
    p = np.float32(1) / (np.float32(1) + np.float32(exp(-z)))
    return y - p, p * (np.float32(1) - p)


@compiled(parallel=True)
def update(
    ids, bag_ids, bag_starts, bag_weights, slots, order, tables, outputs, padded, ends, folds,
    gradient, curvature, damping, own, state, count, prior, centre, centred, carried, pulled,
    weighted, first_pass, decay, slot, touched, sums, merged,
):  # fmt: skip
    """Step the rows that a batch looked up, by what `read` found; all of the batch is one step.

    The prior pulls a row towards its row of `centre`, or towards 0: `centred` has of each slot what
    takes a row of the state to its centre, or `NOWHERE`. `carried` is what earlier rows told of
    each row, and `pulled` that times what they said; both are empty where there are none.

    `order` has the slots of each thread, ended by −1; `slot` is −1 everywhere, before and after;
    `touched`, `sums` and `merged` are scratch of each thread.

    Shape:
        order: int64 (threads, K) · count: float32 (R,) · prior: float32 (K, T) · centre: float32
        (C, Q·T) · centred: int64 (K,) · carried, pulled: float32 (R, T) or (0, T) · slot: int32
        (R,) · touched: int32 (threads, N) · sums: float32 (threads, N, 3P + 3T + 2) · merged:
        int32 (threads, N)
    """
    for thread in prange(order.shape[0]):
        rows, total, often = touched[thread], sums[thread], merged[thread]
        for k in order[thread]:
            if k < 0:
                break
            found = _summed(
                ids, bag_ids, bag_starts, bag_weights, slots[k], tables, outputs, padded, ends,
                folds, gradient, curvature, damping, own, state, slot, rows, total, often,
            )  # fmt: skip
            _stepped(
                k, found, rows, total, tables, outputs, padded, state, count, prior, centre,
                centred, carried, pulled, weighted, first_pass, decay, slot,
            )  # fmt: skip


@compiled(parallel=True)
def sum_rows(
    ids, bag_ids, bag_starts, bag_weights, slots, order, tables, outputs, padded, ends, folds,
    gradient, curvature, damping, own, state, slot, places, touched, sums, merged, found,
):  # fmt: skip
    """Add up what a batch says of the rows that it looked up, for an exchange.

    The first half of `update`, whose arguments these are. Slot k writes found[k] lines of `touched`
    and `sums`, from places[k] on; there is room for all of its look-ups.

    Shape:
        places: int64 (K + 1,) · touched, merged: int32 (N,) · sums: float32 (N, 3P + 3T + 2) ·
        found: int64 (K,)
    """
    for thread in prange(order.shape[0]):
        for k in order[thread]:
            if k < 0:
                break
            low, high = places[k], places[k + 1]
            rows = touched[low:high]
            found[k] = _summed(
                ids, bag_ids, bag_starts, bag_weights, slots[k], tables, outputs, padded, ends,
                folds, gradient, curvature, damping, own, state, slot, rows, sums[low:high],
                merged[low:high],
            )  # fmt: skip
            for s in range(found[k]):
                slot[rows[s]] = -1


@compiled(parallel=True)
def step_rows(
    given, given_sums, begins, places, order, tables, outputs, padded, state, count, prior, centre,
    centred, carried, pulled, weighted, first_pass, decay, slot, touched, sums, merged,
):  # fmt: skip
    """Step rows by what several processes found, each with its `sum_rows`.

    The second half of `update`, whose arguments these are. Process p gives the lines of slot k from
    begins[p, k] to begins[p, k + 1]; sums are taken in the order of the processes, so that they are
    the same on all of them.

    Shape:
        given: int32 (M,) · given_sums: float32 (M, 3P + 3T + 2) · begins: int64 (processes, K + 1)
        · places: int64 (K + 1,) · touched, merged: int32 (M,) · sums: as given_sums
    """
    columns = given_sums.shape[1]
    for thread in prange(order.shape[0]):
        for k in order[thread]:
            if k < 0:
                break
            low, high = places[k], places[k + 1]
            rows, total, often = touched[low:high], sums[low:high], merged[low:high]
            found = 0
            for p in range(begins.shape[0]):
                for i in range(begins[p, k], begins[p, k + 1]):
                    s = _place(given[i], slot, rows, total, often, found)
                    found = max(found, s + 1)
                    for c in range(columns):
                        total[s, c] += given_sums[i, c]
            _stepped(
                k, found, rows, total, tables, outputs, padded, state, count, prior, centre,
                centred, carried, pulled, weighted, first_pass, decay, slot,
            )  # fmt: skip


@compiled()
def _summed(
    ids, bag_ids, bag_starts, bag_weights, of_slot, tables, outputs, padded, ends, folds,
    gradient, curvature, damping, own, state, slot, rows, total, often,
):  # fmt: skip
    """Add up what a batch says of each row of one slot; return how many rows those are."""
    source, pooling, shift = of_slot
    coefficient = 3 * padded + 3 * outputs + 1  # of a list's id, while its weights are added up
    found = 0
    for b in range(gradient.shape[0]):
        if pooling == ONE:
            row = ids[source, b] + shift
            s = _place(row, slot, rows, total, often, found)
            found = max(found, s + 1)
            _add(
                total, s, np.float32(1), 1, b, folds[b], padded, tables, outputs, ends, state,
                row, gradient, curvature, damping, own,
            )  # fmt: skip
            continue
        low, high = bag_starts[source, b], bag_starts[source, b + 1]
        if pooling in (LAST, WEIGHTED_LAST):
            low = max(low, high - 1)
        factor = _factor(pooling, bag_weights, low, high)
        for i in range(low, high):  # ids that a list holds twice count as one
            s = _place(bag_ids[i] + shift, slot, rows, total, often, found)
            found = max(found, s + 1)
            often[s] += 1
            if pooling >= WEIGHTED_SUM:
                total[s, coefficient] += factor * bag_weights[i]
        for i in range(low, high):
            row = bag_ids[i] + shift
            s = slot[row]
            times = often[s]
            if times:
                x = factor * np.float32(times)
                if pooling >= WEIGHTED_SUM:
                    x = total[s, coefficient]
                    total[s, coefficient] = 0
                _add(
                    total, s, x, times, b, folds[b], padded, tables, outputs, ends,
                    state, row, gradient, curvature, damping, own,
                )  # fmt: skip
                often[s] = 0
    return found


@compiled()
def _stepped(
    k, found, rows, total, tables, outputs, padded, state, count, prior, centre, centred, carried,
    pulled, weighted, first_pass, decay, slot,
):  # fmt: skip
    """Step the rows of slot k that have sums, and free their places."""
    width, moments = tables * outputs, 3 if weighted else 2
    for s in range(found):
        row = rows[s]
        slot[row] = -1
        share = min(np.float32(1), total[s, 3 * padded + 3 * outputs] / count[row])
        for c in range(width):
            weight, level = state[row, c], prior[k, c % outputs]
            g, h, least = total[s, c], total[s, padded + c], total[s, 2 * padded + c]
            now = state[row, 2 * padded + c] + h
            state[row, 2 * padded + c] = now
            if first_pass:
                state[row, c] = weight + decay * g / max(level + now, least)
            else:
                away = weight
                if centred[k] != NOWHERE:
                    away -= centre[row + centred[k], c]
                g -= level * share * away
                if len(carried):
                    g -= share * (carried[row, c % outputs] * weight - pulled[row, c % outputs])
                down = max(level + state[row, padded + c], least)
                state[row, c] = weight + decay * g / down
        for c in range(moments * outputs):
            state[row, 3 * padded + c] += total[s, 3 * padded + c]


@compiled()
def _place(row, slot, rows, total, often, found):
    """Return where the sums of a row lie: `found`, the next place, cleared, where it is new."""
    s = slot[row]
    if s < 0:
        s = slot[row] = found
        rows[s] = row
        total[s, :] = 0
        often[s] = 0
    return s


@compiled()
def _add(
    total, s, x, times, b, fold, padded, tables, outputs, ends, state, row,
    gradient, curvature, damping, own,
):  # fmt: skip
    """Add a look-up with coefficient x, or as many as `times`, to the sums of its row."""
    square = x * x
    for c in range(tables * outputs):
        total[s, c] += x * gradient[b, c]
        total[s, padded + c] += square * curvature[b, c]
        total[s, 2 * padded + c] += abs(x) * damping[b, c]
    place = 3 * padded
    total[s, place + 3 * outputs] += np.float32(times)
    until, middle = 0, np.float32(0)
    for t in range(outputs):
        if ends[t]:
            until = ends[t]
            middle = _middle(state, row, fold * outputs, t, until, own, b, outputs)
        weight = state[row, fold * outputs + t]
        if t < until:
            weight -= middle  # what all outputs of a softmax have in common says nothing
        # What the look-up would say were its own weight 0.
        total[s, place + t] += x * own[b, t] + square * own[b, outputs + t] * weight
        total[s, place + outputs + t] += square * own[b, 2 * outputs + t]
        total[s, place + 2 * outputs + t] += square * own[b, 3 * outputs + t]


@compiled()
def _middle(state, row, first, start, end, own, b, outputs):
    """Return the mean weight of a softmax's outputs, each by its probability in a row."""
    found, total = np.float32(0), np.float32(0)
    for t in range(start, end):
        p = own[b, outputs + t]
        found += p * state[row, first + t]
        total += p
    return found / total if total > 0 else np.float32(0)
