"""Rows of today beside the profile of a bundle: what has drifted, and what labels say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from polyrank.bundle.model import PIECE_ROWS, Bundle
from polyrank.data.read import Joined, collect, collect_chunks, column_names, read
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.features.ids import as_type, id_type, plain_ids
from polyrank.metrics.scorecard import Scorecard
from polyrank.monitor.bounds import Bounds
from polyrank.monitor.drift import ALPHA, Drift, drifts
from polyrank.monitor.profile import Profile, observed, watched
from polyrank.text import aligned


@dataclass(frozen=True, eq=False)
class Monitored:
    """What monitoring found.

    Args:
        name: of the run.
        profile: of the bundle.
        rows: that were looked at.
        drifts: of each facet of the profile.
        scorecard: of the rows whose labels have come, with intervals; None without labels.
        crossed: a sentence for each bound that is crossed.
    """

    name: str
    profile: Profile
    rows: int
    drifts: tuple[Drift, ...]
    scorecard: Scorecard | None
    crossed: tuple[str, ...]

    def __str__(self) -> str:
        head = ["", "psi", "p adjusted", "moves most"]
        lines = [
            [each.facet.title, f"{each.psi:.4f}", f"{each.adjusted:.4f}", _moved(each)]
            for each in self.by_psi
        ]
        found = f"{self.rows:,} rows, {self.profile.rows:,} {self.profile.split} rows at fit\n"
        found += aligned(head, lines).strip("\n")
        if self.scorecard is not None:
            found += f"\n\n{self.scorecard}"
        bounds = [f"crossed: {each}" for each in self.crossed] or ["no bound is crossed"]
        return "\n".join([found, "", *bounds])

    @property
    def by_psi(self) -> list[Drift]:
        """The drifts, those that were found first, the largest first."""
        return sorted(self.drifts, key=lambda each: (not each.found, -each.psi))

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "rows": self.rows,
            "profile": {"split": self.profile.split, "rows": self.profile.rows},
            "alpha": ALPHA,
            "drifts": [
                {
                    "name": each.facet.name, "of": each.facet.of, "psi": each.psi,
                    "p_value": each.p_value, "p_adjusted": each.adjusted, "found": each.found,
                    "categories": list(each.facet.categories),
                    "at_fit": list(each.facet.counts), "now": list(each.counts),
                }
                for each in self.drifts
            ],
            "scorecard": None if self.scorecard is None else self.scorecard.to_json(),
            "crossed": list(self.crossed),
        }  # fmt: skip


def _moved(drift: Drift) -> str:
    return drift.moved if drift.found else ""


def monitor(
    bundle: Bundle,
    rows: Any,
    *,
    labels: Any = None,
    key: Sequence[str] = (),
    bounds: Bounds = Bounds(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Monitored:
    """Compare rows with the profile of a bundle, and predictions with the labels that have come.

    Args:
        bundle: fitted, with a profile.
        rows: as in `Bundle.predict`; of files, some are in memory at a time.
        labels: rows with the label columns and the columns of `key`.
        key: the columns that together name a row, in both.
        bounds: what is called wrong.
        seed: of the bootstrap of PSI.

    Raises:
        DataError: no rows; a key that is missing, that names two rows, or that nothing shares.
        ConfigError: a bundle without a profile; labels without a key.
    """
    if bundle.profile is None:
        raise ConfigError(
            "this bundle has no profile of its rows, since its log's negatives were sampled or it "
            "was made by polyrank.classic: there is nothing to compare with"
        )
    if (labels is None) != (not key):
        missing = "labels without a key" if labels is not None else "a key without labels"
        raise ConfigError(
            f"got {missing}: name both, the file of the labels (--labels) and the columns that "
            "name a row in it and in the rows (--key), such as request and item"
        )
    opened = bundle.opened(rows)
    frame = opened.lazy(bundle.schema) if isinstance(opened, Joined) else opened
    counts = [np.zeros(len(each.counts), np.int64) for each in bundle.profile.facets]
    seen = 0
    for part in collect_chunks(frame, bundle.schema.inputs, PIECE_ROWS):
        seen += part.height
        for total, more in zip(counts, _counts(bundle, bundle.profile, part), strict=True):
            total += more
    if not seen:
        raise DataError("no rows: there is nothing to compare with the profile")
    found = drifts(bundle.profile, counts, seed=seed)
    card = None if labels is None else _scored(bundle, frame, labels, key)
    name = str(bundle.config.get("name", ""))
    crossed = bounds.crossed(found, () if card is None else card)
    return Monitored(name, bundle.profile, seen, found, card, crossed)


def _counts(bundle: Bundle, profile: Profile, part: pl.DataFrame) -> list[np.ndarray]:
    """Return the counts of some raw rows, by facet."""
    values: dict[tuple[str, str], np.ndarray] = {}
    for feature in watched(bundle.schema.features):
        column = feature.column(part)
        for of, each in observed(bundle.vocab.codecs[feature.name], column).items():
            values[feature.name, of] = each
    predicted = bundle.score(bundle.encode_quietly(part))
    for output in predicted.columns:
        values[output, "prediction"] = predicted[output].to_numpy().astype(np.float64)
    return [each.count(values[each.name, each.of]) for each in profile.facets]


def _scored(bundle: Bundle, frame: pl.LazyFrame, labels: Any, key: Sequence[str]) -> Scorecard:
    """Return the scorecard of the rows that have labels."""
    come = read(labels, bundle.schema)
    for what, each in (("the rows", frame), ("the labels", come)):
        names = column_names(each)
        for column in key:
            if column not in names:
                near = did_you_mean(column, names)
                raise DataError(f"{what} have no column {column!r} of the key{near}")
    inputs = {*bundle.schema.inputs, *key}
    labelled = set(column_names(come))
    own = [name for name in column_names(frame) if name in inputs or name not in labelled]
    wanted = [name for name in column_names(come) if name in key or name not in inputs]
    rows, found = _alike(collect(frame, own), collect(come, wanted), key)
    for what, each in (("the rows", rows), ("the labels", found)):
        twice = each.select(pl.struct(key).is_duplicated().sum()).item()
        if twice:
            raise DataError(
                f"{twice:,} of {each.height:,} rows of {what} share their {' and '.join(key)}: "
                "name more columns, so that a key names one row"
            )
    both = rows.join(found, on=list(key), how="inner", maintain_order="left")
    if not both.height:
        raise DataError(f"no row has a label: the rows and the labels share no {' and '.join(key)}")
    return bundle.evaluate(both, split="monitored")


def _alike(
    rows: pl.DataFrame, labels: pl.DataFrame, key: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both without the rows that lack a key, and with each key as one type.

    Numbers and text are compared as ids are: 7, 7.0 and "7" are one, since a server logs what its
    clients send.
    """
    rows, labels = rows.drop_nulls(key), labels.drop_nulls(key)
    for column in key:
        both = rows[column], labels[column]
        if both[0].dtype == both[1].dtype:
            continue
        if not all(each.dtype.is_numeric() or each.dtype == pl.String for each in both):
            raise DataError(
                f"the key {column!r} is a column of {both[0].dtype} in the rows and of "
                f"{both[1].dtype} in the labels: write it as one type"
            )
        plain = [plain_ids(each) for each in both]
        target = id_type(plain)
        rows, labels = (
            frame.with_columns(as_type(each, target))
            for frame, each in zip((rows, labels), plain, strict=True)
        )
    return rows, labels
