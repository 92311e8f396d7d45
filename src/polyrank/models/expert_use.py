"""Diagnostics of a mixture: how its gates use its experts, and what to do when they stop.

Letters: N rows, E experts, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Any

import torch
from torch import Tensor

from polyrank.data.table import Table
from polyrank.models.outputs import CHUNK_ROWS, inputs
from polyrank.models.ranker import Ranker
from polyrank.models.trunk import Mixing
from polyrank.text import aligned

COLLAPSED = 0.95  # of a gate's weight on one expert
DEAD = 0.9  # of an expert's units
UNUSED = 1 / 20  # of an even share
SIMILARITY_ROWS = 4096  # CKA costs rows × (E·H)², after each epoch
ENOUGH_ROWS = 100  # a unit that is 0 on fewer rows may be on elsewhere


@dataclass(frozen=True, kw_only=True)
class GateUse:
    """How one gate chooses.

    Args:
        name: the task or group for which it mixes.
        weights: its mean weight of each expert that it sees.
        row_entropy: mean over rows of the entropy of a row's weights, as a share of the largest,
            the log of the number of experts that it sees. 1: every row uses all of them alike;
            0: every row uses one.
        mean_entropy: entropy of `weights`, likewise; never below `row_entropy`. Far above it, rows
            use different experts: the gate routes. As low, all rows use the same few: the gate has
            collapsed. Both are None for a gate that sees one expert.
    """

    name: str
    weights: Mapping[str, float]
    row_entropy: float | None
    mean_entropy: float | None

    @property
    def favourite(self) -> str:
        """The expert with the largest mean weight."""
        return max(self.weights, key=lambda each: self.weights[each])


@dataclass(frozen=True, kw_only=True)
class ExpertUse:
    """How the gates of one level use its experts, on some rows.

    Args:
        level: its name if the trunk has several, else "".
        rows: number of rows.
        experts: their names.
        gates: how each chooses.
        utilisation: each expert's mean weight over rows and gates; a gate that does not see it
            counts as 0. They sum to 1.
        even: the utilisation if each gate weighed all that it sees alike.
        effective_experts: exp of the entropy of the utilisation: the number of experts that, used
            alike, would be spread as widely.
        dead_rate: share of each expert's output units that are 0 on every row.
        similarity: linear CKA of each pair of experts' outputs, on the first 4,096 rows: 1 if they
            are equal up to rotation and scale, None if one of them is the same for all rows.

    Shape:
        similarity: (E, E); utilisation, even, dead_rate: (E,), in the order of `experts`

    Reference:
        Kornblith et al., ICML 2019, "Similarity of Neural Network Representations Revisited",
        section 3, table 1 (linear CKA).
    """

    level: str
    rows: int
    experts: tuple[str, ...]
    gates: tuple[GateUse, ...]
    utilisation: tuple[float, ...]
    even: tuple[float, ...]
    effective_experts: float
    dead_rate: tuple[float, ...]
    similarity: tuple[tuple[float | None, ...], ...]

    def figures(self) -> dict[str, float]:
        """Return the columns of an epoch's history.

        For each gate that has a choice `gate click row entropy`, `gate click mean entropy` and
        `gate click largest weight`, and the `largest dead rate`; each after the level's name, if
        there is one.
        """
        found: dict[str, float] = {}
        for gate in self.gates:
            if gate.row_entropy is not None and gate.mean_entropy is not None:
                found[f"gate {gate.name} row entropy"] = gate.row_entropy
                found[f"gate {gate.name} mean entropy"] = gate.mean_entropy
                found[f"gate {gate.name} largest weight"] = gate.weights[gate.favourite]
        found["largest dead rate"] = max(self.dead_rate)
        return {f"{self.level} {name}".strip(): value for name, value in found.items()}

    def warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the mixture, with remedies; () on fewer than 100 rows."""
        if self.rows < ENOUGH_ROWS:
            return ()
        return tuple(self._where + each for each in self._faults())

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        return {
            "level": self.level,
            "rows": self.rows,
            "effective_experts": self.effective_experts,
            "gates": [asdict(gate) for gate in self.gates],
            "experts": [
                {"name": name, "utilisation": used, "even": even, "dead_rate": dead}
                for name, used, even, dead in zip(
                    self.experts, self.utilisation, self.even, self.dead_rate, strict=True
                )
            ],
            "similarity": [list(row) for row in self.similarity],
            "warnings": list(self.warnings()),
        }

    def __str__(self) -> str:
        header = ["expert", *(f"gate {gate.name}" for gate in self.gates)]
        header += ["utilisation", "dead units", "most similar", "cka"]
        lines = []
        for index, name in enumerate(self.experts):
            weights = [_shown(gate.weights.get(name)) for gate in self.gates]
            other, cka = self._most_similar(index)
            numbers = [_shown(self.utilisation[index]), _shown(self.dead_rate[index])]
            lines.append([name, *weights, *numbers, other, _shown(cka)])
        others = len(header) - len(self.gates) - 1
        for title, values in (
            ("row entropy", [gate.row_entropy for gate in self.gates]),
            ("mean entropy", [gate.mean_entropy for gate in self.gates]),
        ):
            lines.append([title, *map(_shown, values), *[""] * others])
        right = [index for index in range(1, len(header)) if header[index] != "most similar"]
        title = (
            f"{self._where}{self.effective_experts:.1f} effective experts of "
            f"{len(self.experts)}, on {self.rows:,} rows"
        )
        return "\n".join([title, aligned(header, lines, right), *self.warnings()])

    @property
    def _where(self) -> str:
        return f"{self.level}: " if self.level else ""

    def _faults(self) -> Iterator[str]:
        for gate in self.gates:
            largest = gate.weights[gate.favourite]
            if len(gate.weights) > 1 and largest > COLLAPSED:
                yield (
                    f"the gate of {gate.name!r} gives {largest:.1%} of its weight to expert "
                    f"{gate.favourite!r}: it no longer mixes, and what the other experts learn "
                    "hardly reaches it. Lower lr, give the trunk dropout, or use fewer experts; if "
                    "validation is as good with one expert, SharedBottom is the simpler trunk"
                )
        dead = zip(self.experts, self.dead_rate, strict=True)
        if found := {name: f"{rate:.0%}" for name, rate in dead if rate >= DEAD}:
            yield (
                f"{_named(found)} {'is' if len(found) == 1 else 'are'} dead: that share of the "
                f"output units is 0 on all {self.rows:,} rows, and gets no gradient that could "
                'revive it. Lower lr, set norm = "batch" in the trunk, or use fewer experts'
            )
        used = zip(self.experts, self.utilisation, self.even, strict=True)
        if found := {name: f"{share:.2%}" for name, share, even in used if share < UNUSED * even}:
            yield (
                f"the gates hardly use {_named(found)}: less than a twentieth of an even share of "
                "the weight. Such an expert costs time and learns nothing: use fewer experts, or "
                "lower lr so that the gates settle later"
            )

    def _most_similar(self, index: int) -> tuple[str, float | None]:
        pairs = enumerate(zip(self.experts, self.similarity[index], strict=True))
        known = {name: cka for at, (name, cka) in pairs if cka is not None and at != index}
        name = max(known, key=lambda each: known[each], default="")
        return name, known.get(name)


def experts_of(ranker: Ranker, table: Table, device: str = "cpu") -> tuple[ExpertUse, ...]:
    """Return how a ranker's gates use its experts, level by level; empty if it has no gates.

    In evaluation mode, on rows drawn from the whole table, which may be sorted: always the same.
    """
    ranker.eval()
    with torch.inference_mode():
        if not ranker.mixing(torch.zeros(2, ranker.layout.width, device=device)):
            return ()  # and no row is gathered
        if not table.given:
            table = ranker.told(table)
        batch = next(table.batches(ranker.layout, CHUNK_ROWS, shuffle=True))
        return tuple(expert_use(each) for each in ranker.mixing(inputs(ranker, batch, device).x))


def expert_use(mixing: Mixing) -> ExpertUse:
    """Return how the gates of a level use its experts."""
    gates = tuple(_gate_use(mixing, name) for name in mixing.gates)
    used, even = [], []
    for name in mixing.experts:
        seeing = [gate.weights for gate in gates if name in gate.weights]
        used.append(sum(weights[name] for weights in seeing) / len(gates))
        even.append(sum(1 / len(weights) for weights in seeing) / len(gates))
    return ExpertUse(
        level=mixing.level,
        rows=len(mixing.outputs),
        experts=mixing.experts,
        gates=gates,
        utilisation=tuple(used),
        even=tuple(even),
        effective_experts=exp(_entropy(torch.tensor(used, dtype=torch.float64))),
        dead_rate=tuple((mixing.outputs.abs().amax(dim=0) == 0).double().mean(dim=1).tolist()),
        similarity=linear_cka(mixing.outputs[:SIMILARITY_ROWS]),
    )


def linear_cka(outputs: Tensor) -> tuple[tuple[float | None, ...], ...]:
    """Return ‖Yᵀ X‖² / (‖Xᵀ X‖ · ‖Yᵀ Y‖) of each pair of experts, centred: (N, E, H) → (E, E).

    Within 0 and 1; None if an expert is the same for all rows.

    Reference:
        Kornblith et al., ICML 2019, section 3, table 1.
    """
    experts, columns = outputs.shape[1:]
    varies = (outputs.amax(dim=0) != outputs.amin(dim=0)).cpu()
    values = outputs.cpu().double()
    # A constant minus its own mean is not always 0 in floating point.
    centred = ((values - values.mean(dim=0)) * varies).reshape(len(values), -1)
    products = (centred.T @ centred).view(experts, columns, experts, columns)
    shared = products.square().sum(dim=(1, 3))
    norms = shared.diagonal().sqrt()
    cka = (shared / norms.outer(norms)).clamp(max=1.0)
    known = [bool(each) for each in varies.any(dim=1)]
    return tuple(
        tuple(value if known[one] and known[other] else None for other, value in enumerate(row))
        for one, row in enumerate(cka.tolist())
    )


def _gate_use(mixing: Mixing, name: str) -> GateUse:
    seen = mixing.choice(name)
    columns = [mixing.experts.index(each) for each in seen]
    weights = mixing.gates[name].double()[:, columns]
    mean = weights.mean(dim=0)
    row_entropy = mean_entropy = None
    if len(seen) > 1:
        largest = log(len(seen))
        row_entropy = min(1.0, float(torch.special.entr(weights).sum(dim=1).mean()) / largest)
        mean_entropy = min(1.0, _entropy(mean) / largest)
    shares = dict(zip(seen, mean.tolist(), strict=True))
    return GateUse(name=name, weights=shares, row_entropy=row_entropy, mean_entropy=mean_entropy)


def _entropy(weights: Tensor) -> float:
    return float(torch.special.entr(weights).sum())


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _named(experts: Mapping[str, str]) -> str:
    shown = ", ".join(f"{name!r} ({figure})" for name, figure in experts.items())
    return f"{'expert' if len(experts) == 1 else 'experts'} {shown}"
