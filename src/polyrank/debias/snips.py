"""Self-normalised inverse propensity scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.ips import weighted
from polyrank.debias.propensity import PropensityWeighted
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class SNIPS(PropensityWeighted):
    """Inverse propensity scores, divided by the sum of the weights instead of by the rows.

    The loss is Σ o·δ(y, r)/p ÷ Σ o/p over the batch, in the notation of `IPS`. The sum of weights
    moves with the sum of losses, so their ratio varies less than IPS does. Its bias falls with the
    rows where the condition happened, so a batch needs some.

    Args:
        floor: the least p, within (0, 1].

    Raises:
        SchemaError: a floor out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias="snips")]
        >>> Schema([SparseFeature("item")], tasks).objective.terms[1].name
        'buy|click @ click [snips]'

    Reference:
        Swaminathan and Joachims, The Self-Normalized Estimator for Counterfactual Learning,
        NeurIPS 2015; Schnabel et al., Recommendations as Treatments, ICML 2016.
    """

    name = "snips"

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        return (schema.term(task, task.given, self, entire_space=True),)

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        return weighted(term, scores, labels, 1 / self.propensity(term, scores), normalized=True)
