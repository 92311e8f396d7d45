"""The served model, an exported MMoE with Ali-CCP's columns and full vocabularies; its requests.

The model has 31 features, two tasks and a fused score. It is trained for an instant on a log that
contains every id: its size costs serving time, its quality does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

import polyrank as pr
from parts import generated
from polyrank.datasets.ali_ccp import DENSE, SPARSE
from polyrank.metrics.fusion import Fusion

if TYPE_CHECKING:
    from polyrank.serve.export.parity import Parity

FUSION = {"click": 1.0, "buy": 2.0}
CANDIDATES = 100  # of a request
REQUESTS = 64  # different ones
# What a ranking request says about each item; the rest describes the user and the page.
OF_ITEMS = (
    *("205", "206", "207", "210", "216", "508", "509", "702", "853"),
    *("D508", "D509", "D702", "D853"),
)
FEATURES = (*SPARSE, *DENSE)


@dataclass(frozen=True)
class Request:
    """One user, and the items to rank.

    Args:
        context: the features of the user and the page.
        candidates: the features of each item.
    """

    context: Mapping[str, Any]
    candidates: list[dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The request as full rows."""
        return [{**self.context, **each} for each in self.candidates]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The request as full columns."""
        rows = self.rows
        return {name: [row[name] for row in rows] for name in FEATURES}


def write_bundle(folder: Path, seed: int) -> Parity:
    """Train, save and export the model."""
    from polyrank.serve.export.write import (
        export,  # with torch, which is not there where one only asks
    )

    rows = max(generated.SIZES.values())
    random = np.random.default_rng(seed)
    everything = {
        name: np.resize(random.permutation(size) + 1, rows)
        for name, size in generated.SIZES.items()
    }
    drawn = pl.concat(generated.frames(rows, seed))
    bundle = pr.fit(
        generated.schema(), pr.Model(trunk=pr.MMoE()), train=drawn.with_columns(**everything),
        epochs=1, batch_size=4096, seed=seed, fusion=Fusion(FUSION),
    )  # fmt: skip
    bundle.save(folder)
    (parity,) = export(bundle, folder, [drawn.head(4096)]).values()
    return parity


def requests(seed: int) -> list[Request]:
    """Return requests whose ids are as frequent as in the log."""
    frame = pl.concat(generated.frames(REQUESTS * CANDIDATES, seed, part=1))
    frame = frame.with_columns(pl.col(DENSE).cast(pl.Float64).round(4))  # as a log has them
    found = []
    for each in frame.iter_slices(CANDIDATES):
        context = each.select(name for name in FEATURES if name not in OF_ITEMS).row(0, named=True)
        found.append(Request(context, each.select(OF_ITEMS).to_dicts()))
    return found
