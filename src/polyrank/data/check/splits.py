"""How the splits of a log relate: repeated rows, time order, users."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from polyrank.data.check.audit import Finding
from polyrank.data.check.coding import Coded, mix
from polyrank.data.split import ordered

# A later split drawn from the same log repeats training rows as often as they repeat each other:
# a fifth more, plus 5 standard deviations of a Poisson count, is no coincidence.
REPEATED = 1.2
REPEATED_DEVIATIONS = 5.0
# Of pairs of a training row and a later one: random splits give .5, splits in order 0.
MOST_REVERSED = 0.75
# A boundary within a request leaves a smaller share of pairs out of order than this.
LEAST_INTERLEAVED = 0.001
_ROW = np.uint64(0xD1B54A32D192ED03)


def no_rows_yet(rows: int) -> np.ndarray:
    """Return the checksums of rows before their first column."""
    return np.full(rows, _ROW, dtype=np.uint64)


def add_column(rows: np.ndarray, exact: np.ndarray) -> None:
    """Add one more column's values to the checksums of rows, in place."""
    np.add(rows, exact.astype(np.uint64), out=rows)
    rows[:] = mix(rows)


def duplicate_findings(rows: Mapping[str, np.ndarray]) -> list[Finding]:
    """Return how many later rows repeat training rows, beside what coincidence explains.

    Args:
        rows: checksums of the rows of each split, `train` among them.
    """
    train = np.sort(rows["train"])
    again = train[1:] == train[:-1]
    twins = int(np.count_nonzero(np.append(again, False) | np.insert(again, 0, False)))
    natural = twins / len(train)
    findings = []
    for split, later in rows.items():
        if split == "train":
            continue
        places = np.minimum(np.searchsorted(train, later), len(train) - 1)
        count = int(np.count_nonzero(train[places] == later))
        if not count:
            continue
        expected = natural * len(later)
        bound = REPEATED * expected + REPEATED_DEVIATIONS * np.sqrt(expected)
        numbers = {
            "rows": count, "share": count / len(later), "train_share": natural,
            "expected": expected,
        }  # fmt: skip
        found = (
            f"{count:,} of {len(later):,} rows of {split} ({count / len(later):.2%}) are in train "
            f"as well, alike in every feature, key and label; {natural:.2%} of the training rows "
            "have such a twin within train"
        )
        if count > bound:
            remedy = f"remove them from {split}: a model has seen their labels"
            findings.append(Finding("warning", "duplicates", found, None, split, numbers, remedy))
        else:
            found += ", so that is coincidence"
            findings.append(Finding("info", "duplicates", found, None, split, numbers, "nothing"))
    return findings


def time_findings(times: Mapping[str, pl.Series]) -> list[Finding]:
    """Return where later splits lie in time before the training rows, or among them.

    Args:
        times: of the rows of each split, `train` among them; null is left out.

    Raises:
        DataError: text whose order is not known.
    """
    joined = pl.concat(
        [series.alias("time").to_frame() for series in times.values()], how="vertical_relaxed"
    )["time"]
    order = ordered(joined)
    order = order.rank("dense") if order.dtype == pl.String else order.to_physical()
    known = (joined.is_not_null() & order.is_not_null()).to_numpy()
    parts: dict[str, np.ndarray] = {}
    start = 0
    for split, series in times.items():
        kept = known[start : start + len(series)]
        parts[split] = order.slice(start, len(series)).filter(pl.Series(kept)).to_numpy()
        start += len(series)
    train = np.sort(parts["train"])
    findings = []
    for split, later in parts.items():
        if split == "train" or not len(later) or not len(train):
            continue
        after = len(train) - np.searchsorted(train, later, side="right")
        share = float(after.mean() / len(train))
        numbers = {"share": share}
        column = times[split].name
        if share > MOST_REVERSED:
            findings.append(
                Finding(
                    "error", "time-reversed", f"{split} lies before train: in {share:.1%} of all "
                    f"pairs of a training and a {split} row, the {split} row is the earlier",
                    column, split, numbers,
                    f"swap the files, or split by time: train on the past, {split} on what "
                    "follows",
                )
            )  # fmt: skip
        elif share > LEAST_INTERLEAVED:
            findings.append(
                Finding(
                    "info", "time-interleaved", f"{split} is not after train: in {share:.1%} of "
                    f"all pairs of a training and a {split} row, the {split} row is the earlier",
                    column, split, numbers,
                    "[data.split] by = 'time' scores on the future, which a model in use meets",
                )
            )  # fmt: skip
    return findings


def user_findings(column: str, users: Mapping[str, Coded]) -> list[Finding]:
    """Return the share of later splits' rows that belongs to users in train.

    Args:
        column: of the user.
        users: of each split, coded by the vocabulary of the training rows.
    """
    findings = []
    for split, later in users.items():
        if split == "train":
            continue
        rows = int(later.counts[1:].sum())
        known = int(np.count_nonzero(later.counts[1:]))
        if users["train"].nulls and later.nulls:  # null has a code of its own, and is no user
            rows, known = rows - later.nulls, known - 1
        share = rows / len(later.codes)
        findings.append(
            Finding(
                "info", "user-overlap",
                f"{share:.1%} of the rows of {split} are of {known:,} users who are in train too",
                column, split, {"rows": rows, "share": share, "users": known},
                "[data.split] by = 'user' scores on new users, if those are what the model meets",
            )
        )  # fmt: skip
    return findings
