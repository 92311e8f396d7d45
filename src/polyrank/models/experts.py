"""How the gates of a mixture use its experts, in numbers, and what to do when they stop.

Letters: N rows looked at, E experts, H columns of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping
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
SIMILARITY_ROWS = 4096  # it costs rows × (E·H)², after each epoch
ENOUGH_ROWS = 100  # a unit that is off on fewer rows may be on elsewhere


@dataclass(frozen=True, kw_only=True)
class GateUse:
    """How one gate chooses.

    Args:
        name: the task, or the group, for which it mixes.
        weights: its mean weight of each expert that it sees.
        row_entropy: how it treats a single row: the mean over rows of the entropy of the row's
            weights, as a share of the largest, log of the number of experts that it sees. 1: every
            row takes all of them alike; 0: every row takes one.
        mean_entropy: how it treats all rows together: the entropy of `weights`, likewise. Far above
            `row_entropy`, rows take different experts: the gate routes. Low with it, all rows take
            the same few: the gate has collapsed. Never below `row_entropy`. Both are None for a
            gate that sees one expert, and has no choice.
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
        level: its name where a trunk has several, else "".
        rows: looked at.
        experts: their names.
        gates: how each chooses.
        utilisation: each expert's mean weight over rows and gates, a gate that does not see it
            counting as 0; they sum to 1.
        even: what the utilisation would be if each gate weighed all that it sees alike.
        effective_experts: exp of the entropy of the utilisation: as many experts, used alike, would
            be spread as widely.
        dead_rate: share of each expert's output units that are 0 on every row.
        similarity: linear CKA of each pair of experts' outputs, 1 for experts that say the same up
            to rotation and scale; None where an expert says one thing of all rows.
            Of the first 4,096 rows.

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
        """Return what the history has of an epoch: one number a name.

        Of each gate that has a choice `gate click row entropy`, `gate click mean entropy` and
        `gate click largest weight`, and the largest dead rate as `largest dead rate`; the level's
        name before them, if it has one.
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
        """Return what is wrong with the mixture, each with its remedy; nothing of few rows."""
        if self.rows < ENOUGH_ROWS:
            return ()
        where = f"{self.level}: " if self.level else ""
        return tuple(where + each for each in (*self._collapsed(), *self._dead(), *self._unused()))

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
        where = f"{self.level}: " if self.level else ""
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
            f"{where}{self.effective_experts:.1f} effective experts of {len(self.experts)}, "
            f"on {self.rows:,} rows"
        )
        return "\n".join([title, aligned(header, lines, right), *self.warnings()])

    def _collapsed(self) -> list[str]:
        return [
            f"the gate of {gate.name!r} gives {gate.weights[gate.favourite]:.1%} of its weight to "
            f"expert {gate.favourite!r}: it no longer mixes, and what the other experts learn "
            "hardly reaches it. Lower lr, give the trunk dropout, or take fewer experts; if the "
            "validation loss is as good with one expert, SharedBottom is the simpler trunk"
            for gate in self.gates
            if len(gate.weights) > 1 and gate.weights[gate.favourite] > COLLAPSED
        ]

    def _dead(self) -> list[str]:
        found = {
            name: f"{rate:.0%}"
            for name, rate in zip(self.experts, self.dead_rate, strict=True)
            if rate >= DEAD
        }
        if not found:
            return []
        return [
            f"{_named(found)} {'is' if len(found) == 1 else 'are'} dead: so many units are 0 on "
            f"all {self.rows:,} rows looked at, and a unit that is off on all rows gets no "
            'gradient that could revive it. Lower lr, set norm = "batch" in the trunk, or take '
            "fewer experts"
        ]

    def _unused(self) -> list[str]:
        found = {
            name: f"{used:.2%}"
            for name, used, even in zip(self.experts, self.utilisation, self.even, strict=True)
            if used < UNUSED * even
        }
        if not found:
            return []
        return [
            f"the gates leave out {_named(found)}: less than a twentieth of an even share of the "
            "weight. Such an expert costs time and teaches nothing: take fewer experts, or lower "
            "lr so that the gates settle later"
        ]

    def _most_similar(self, index: int) -> tuple[str, float | None]:
        known = {
            name: cka
            for other, (name, cka) in enumerate(
                zip(self.experts, self.similarity[index], strict=True)
            )
            if cka is not None and other != index
        }
        if not known:
            return "", None
        name = max(known, key=lambda each: known[each])
        return name, known[name]


def experts_of(ranker: Ranker, table: Table, device: str = "cpu") -> tuple[ExpertUse, ...]:
    """Return how a ranker's gates use its experts, level by level, in evaluation mode.

    Of at most `CHUNK_ROWS` rows, the same ones at every call, drawn from the whole table, which may
    be sorted by user or time. Empty where the trunk mixes nothing.
    """
    ranker.eval()
    with torch.inference_mode():
        if not ranker.mixing(torch.zeros(2, ranker.layout.width, device=device)):
            return ()  # and no row is gathered
        batch = next(table.batches(ranker.layout, CHUNK_ROWS, shuffle=True))
        return tuple(expert_use(each) for each in ranker.mixing(inputs(ranker, batch, device)))


def expert_use(mixing: Mixing) -> ExpertUse:
    """Return how the gates of a level use its experts.

    Args:
        mixing: what they do on N rows.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> outputs = torch.tensor([[[1.0], [0.0]], [[3.0], [0.0]]])
        >>> use = expert_use(Mixing(experts=("a", "b"), outputs=outputs, gates={"click": weights}))
        >>> use.gates[0].row_entropy, use.gates[0].mean_entropy, use.dead_rate
        (0.0, 1.0, (0.0, 1.0))
    """
    gates = tuple(_gate_use(mixing, name) for name in mixing.gates)
    used = {
        name: sum(gate.weights.get(name, 0.0) for gate in gates) / len(gates)
        for name in mixing.experts
    }
    even = {
        name: sum(1 / len(gate.weights) for gate in gates if name in gate.weights) / len(gates)
        for name in mixing.experts
    }
    return ExpertUse(
        level=mixing.level,
        rows=len(mixing.outputs),
        experts=mixing.experts,
        gates=gates,
        utilisation=tuple(used.values()),
        even=tuple(even.values()),
        effective_experts=exp(_entropy(torch.tensor(list(used.values()), dtype=torch.float64))),
        dead_rate=tuple((mixing.outputs.abs().amax(dim=0) == 0).double().mean(dim=1).tolist()),
        similarity=linear_cka(mixing.outputs[:SIMILARITY_ROWS]),
    )


def linear_cka(outputs: Tensor) -> tuple[tuple[float | None, ...], ...]:
    """Return ‖Yᵀ X‖² / (‖Xᵀ X‖ · ‖Yᵀ Y‖) of each pair of experts, their columns centred.

    Args:
        outputs: of the experts.

    Returns:
        (E, E), within 0 and 1; None where an expert says one thing of all rows.

    Shape:
        outputs: (N, E, H)

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
    return GateUse(
        name=name,
        weights=dict(zip(seen, mean.tolist(), strict=True)),
        row_entropy=row_entropy,
        mean_entropy=mean_entropy,
    )


def _entropy(weights: Tensor) -> float:
    """Return the entropy of weights that sum to 1, in nats."""
    return float(torch.special.entr(weights).sum())


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _named(experts: Mapping[str, str]) -> str:
    """Return experts by name, each with its figure."""
    shown = ", ".join(f"{name!r} ({figure})" for name, figure in experts.items())
    return f"{'expert' if len(experts) == 1 else 'experts'} {shown}"
