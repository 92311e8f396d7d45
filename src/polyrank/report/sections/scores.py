"""The headline and the scorecard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyrank.metrics.registry import METRICS
from polyrank.metrics.score import TRUTH_COLUMNS, Score
from polyrank.report.blocks import Block, Cell, Note, Paragraph, Section, Table
from polyrank.report.evidence import Evidence

TITLES = {
    "auc": "AUC", "gauc": "grouped AUC", "pr_auc": "PR-AUC", "log_loss": "log loss", "ne": "NE",
    "pcoc": "PCOC", "ece": "ECE", "rmse": "RMSE", "mae": "MAE", "r2": "R²", "bias": "bias",
    "oracle_auc": "oracle AUC", "ndcg@10": "NDCG@10", "recall@10": "recall@10", "mrr": "MRR",
    "interval": "intervals",
}  # fmt: skip
CALIBRATED = ("auc", "pcoc", "ece", "log_loss")  # what calibration is to mend, and to leave alone
READING = {
    "binary": (
        "AUC, grouped AUC and PR-AUC: higher is better. Log loss, NE (log loss relative to knowing "
        "the base rate) and ECE (mean gap of 15 bins): lower is better. PCOC, mean prediction / "
        "mean label, is best at 1."
    ),
    "regression": (
        "RMSE, MAE and bias are in the label's own unit; lower RMSE and MAE are better, bias is "
        "best at 0, and R² is better the higher, 1 at most."
    ),
}


def scorecard(evidence: Evidence) -> Section | None:
    """Return every score with every metric; what cannot be measured is absent with its reason."""
    card = evidence.scorecard
    if card is None:
        return Section(
            "Scorecard",
            (Note("Nothing was scored: the run had neither validation nor test rows.", "warning"),),
        )
    blocks: list[Block] = [Note(text, "warning") for text in evidence.notes]
    for kind in METRICS:
        scores = [score for score in card if score.kind == kind]
        if scores:
            blocks += [_table(kind, scores), Paragraph(READING[kind])]
    if any(_has_interval(score.metrics) for score in card):
        blocks.append(
            Paragraph(
                "In brackets: 95 % intervals. They cover the sampling of these rows, not what "
                "training again with another seed would change."
            )
        )
    blocks += _by_request(list(card))
    calibrated = [score for score in card if score.raw]
    if calibrated:
        blocks += [Paragraph("Before → after calibration:"), _before_and_after(calibrated)]
    return Section("Scorecard", tuple(blocks))


def number(value: float) -> str:
    """Return a figure with four decimals, small ones with more, and no zero before the point.

    Example:
        >>> number(0.7123), number(-0.5), number(1.0131), number(0.000312), number(0)
        ('.7123', '−.5000', '1.0131', '.00031', '0')
        >>> number(12345.678), number(2.5e-9)
        ('12,345.68', '2.5e−09')
    """
    size = abs(value)
    if size == 0:
        text = "0"
    elif size < 1e-5:
        text = f"{size:.1e}"
    elif size < 1e-3:
        text = f"{size:.5f}"
    elif size < 1000:
        text = f"{size:.4f}"
    else:
        text = f"{size:,.2f}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    return ("−" if value < 0 else "") + text.replace("-", "−")


def interval(metric: Mapping[str, float]) -> str:
    """Return the bounds of a metric in brackets; nothing where it has none.

    Example:
        >>> interval({"value": 0.7123, "low": 0.699, "high": 0.725}), interval({"value": 0.7123})
        ('[.6990, .7250]', '')
    """
    if "low" not in metric or "high" not in metric:
        return ""
    return f"[{number(metric['low'])}, {number(metric['high'])}]"


def count(value: int | None) -> Cell:
    """Return a number of rows, or a dash where it means nothing."""
    return (
        Cell("–", reason="a score of probabilities, not of labels")
        if value is None
        else Cell(f"{value:,}")
    )


def _has_interval(metrics: Mapping[str, Mapping[str, float]]) -> bool:
    return any(interval(each) for each in metrics.values())


def _table(kind: str, scores: Sequence[Score]) -> Table:
    known = TRUTH_COLUMNS if any(score.truth for score in scores) else {}
    counted = ["rows", "positives"] if kind == "binary" else ["rows"]
    names = [name for name, each in METRICS[kind].items() if each.key != "request"]
    rows = tuple(
        (
            Cell(score.name),
            *(count(getattr(score, each)) for each in counted),
            *(_cell(score.metrics, score.absent, name) for name in names),
            *(
                _cell({each: {"value": v} for each, v in (score.truth or {}).items()},
                      score.absent, name)
                for name in known
            ),
        )
        for score in scores
    )  # fmt: skip
    titles = [TITLES.get(name, name) for name in names]
    titles += [
        TITLES.get(name, shown) if name == "oracle_auc" else shown for name, shown in known.items()
    ]
    return Table(("score", *counted, *titles), rows, notes=_reasons(scores))


def _by_request(scores: Sequence[Score]) -> list[Block]:
    """Return the metrics of ranked lists, where there are requests."""
    names = [name for name, each in METRICS["binary"].items() if each.key == "request"]
    scores = [score for score in scores if score.metrics.keys() & set(names)]
    if not scores:
        return []
    text = "Within each request, over those with a positive: higher is better."
    rows = tuple(
        (Cell(score.name), *(_cell(score.metrics, score.absent, name) for name in names))
        for score in scores
    )
    header = ("by request", *(TITLES.get(name, name) for name in names))
    return [Table(header, rows), Paragraph(text)]


def _before_and_after(scores: Sequence[Score]) -> Table:
    def cell(score: Score, name: str) -> Cell:
        before, after = (score.raw or {}).get(name), score.metrics.get(name)
        if before is None or after is None:
            return Cell("–", reason=score.absent.get(name, "it was not measured"))
        return Cell(f"{number(before)} → {number(after['value'])}")

    rows = tuple(
        (Cell(score.name), *(cell(score, name) for name in CALIBRATED)) for score in scores
    )
    return Table(("score", *(TITLES[name] for name in CALIBRATED)), rows)


def _cell(metrics: Mapping[str, Mapping[str, float]], absent: Mapping[str, str], name: str) -> Cell:
    if name not in metrics:
        return Cell("–", reason=absent.get(name, "it was not measured"))
    return Cell(number(metrics[name]["value"]), detail=interval(metrics[name]))


def _title(name: str) -> str:
    """Return a metric's title, or that of its interval.

    Example:
        >>> _title("gauc"), _title("gauc interval"), _title("interval")
        ('grouped AUC', 'grouped AUC interval', 'intervals')
    """
    metric, _, rest = name.partition(" ")
    return " ".join(filter(None, (TITLES.get(metric, metric), rest)))


def _reasons(scores: Sequence[Score]) -> tuple[str, ...]:
    """Return a line a reason: which metrics it explains, and of which scores."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for score in scores:
        for name, reason in score.absent.items():
            names, where = found.setdefault(reason, ({}, {}))
            names[_title(name)] = where[score.name] = None
    return tuple(
        f"– {', '.join(names)} of {', '.join(where)}: {reason}"
        for reason, (names, where) in found.items()
    )
