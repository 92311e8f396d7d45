"""Whether experts specialise: gates, utilisation, dead units, similarity, entropy."""

from __future__ import annotations

from polyrank.report import charts
from polyrank.report.blocks import Figure, Section
from polyrank.report.evidence import Evidence, ExpertUse
from polyrank.report.sections.epochs import ENTROPY, best_epoch, series


def experts(evidence: Evidence) -> Section | None:
    """Return what each gate listens to, how different experts are, and the entropy over epochs."""
    figures = [figure for use in evidence.experts for figure in _figures(use)]
    entropy = series(evidence.history, ENTROPY)
    if entropy is not None:
        best = best_epoch(evidence.history)
        reading = (
            "0: a gate listens to one expert. The highest possible value, log of their number: to "
            "all alike. A fall to 0 early in training is a gate that collapsed."
        )
        picture = charts.by_epoch(entropy, "gate entropy, nats", best)
        figures.append(Figure("Entropy of the gates", reading, (picture,)))
    return Section("Gates and experts", tuple(figures)) if figures else None


def _figures(use: ExpertUse) -> list[Figure]:
    of = f" of {use.name}" if use.name else ""
    figures = [
        Figure(
            f"Gate weights{of}",
            "Mean weight that each gate gives to each expert: equal rows share everything, one "
            "dark cell a row specialises, an empty column is an expert that nobody uses.",
            (charts.heatmap(use.weights, use.gates, use.experts, titles=("gate", "expert"),
                            measure="mean weight"),),
        )
    ]  # fmt: skip
    if use.utilisation is not None:
        reading = "Share of rows in which an expert has some gate's largest weight."
        picture = charts.shares(use.utilisation, use.experts, "share of rows")
        figures.append(Figure(f"Utilisation{of}", reading, (picture,)))
    if use.dead is not None:
        reading = "Share of an expert's units that are 0 in every row: lost capacity."
        picture = charts.shares(use.dead, use.experts, "dead units")
        figures.append(Figure(f"Dead units{of}", reading, (picture,)))
    if use.similarity is not None:
        picture = charts.heatmap(
            use.similarity, use.experts, use.experts, titles=("expert", "expert"),
            measure="similarity",
        )  # fmt: skip
        reading = "1: two experts say the same, and one of them is superfluous."
        figures.append(Figure(f"Similarity{of}", reading, (picture,)))
    return figures
