"""Inverse propensity scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.propensity import PropensityWeighted
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class IPS(PropensityWeighted):
    """Rows where the condition happened, each weighted by 1 / p.

    The loss is mean over all B rows of o·δ(y, r) / p, where o is whether the condition happened, p
    its probability, δ the log loss and r = P(y|condition). If p is right, its expectation is the
    mean of δ over all rows, as if the label were known everywhere.

    Args:
        floor: the least p, within (0, 1].

    Raises:
        SchemaError: a floor out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias=IPS(floor=0.05))]
        >>> [term.name for term in Schema([SparseFeature("item")], tasks).objective]
        ['click @ all', 'buy|click @ click [ips]']

    Reference:
        Schnabel et al., Recommendations as Treatments, ICML 2016; Zhang et al., Large-scale Causal
        Approaches to Debiasing Post-click Conversion Rate Estimation with Multi-task Learning,
        WWW 2020 (the click head as the propensity); Su et al., SIGIR 2024, equation 3.
    """

    name = "ips"

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        return (schema.term(task, task.given, self, entire_space=True),)

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        return weighted(term, scores, labels, 1 / self.propensity(term, scores))


def weighted(
    term: Any, scores: Any, labels: Any, weight: Any, *, normalized: bool = False
) -> tuple[Summand, ...]:
    """Return Σ weight·δ(y, r) over the term's rows; `normalized` divides it by Σ weight."""
    yes, no = labels.outcome(term.population)
    over = yes | no if normalized else None
    return (
        Summand(yes, weight, -scores.log_probability(term.yes), positive=True, over=over),
        Summand(no, weight, -scores.log_probability(term.no), over=over),
    )
