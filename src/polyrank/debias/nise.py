"""Entropy minimisation on rows where the condition did not happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.method import Debias
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class NISE(Debias):
    """Rows where the condition happened unweighted, and low entropy wherever else.

    The loss is w · mean over all B rows of o·δ(y, r) + (1 − o)·H(r), in the notation of `IPS`.
    H(r) = δ(r, r) is the entropy of the prediction. The method presents it as a soft label that the
    model gives itself; with that label held constant its gradient is 0, so in fact it is entropy
    minimisation: it pushes r away from ½, which for a rare event is towards 0. No propensity is
    involved, and nothing makes the estimate unbiased.

    w = min(loss of the condition ÷ this loss, `largest`), from each batch and a constant.

    Args:
        largest: of w.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias=NISE(largest=2.0))]
        >>> [term.name for term in Schema([SparseFeature("item")], tasks).objective]
        ['click @ all', 'buy|click @ click [nise]']

    Reference:
        Huang et al., Utilizing Non-click Samples via Semi-supervised Learning for Conversion Rate
        Prediction, RecSys 2024. Grandvalet and Bengio, Semi-supervised Learning by Entropy
        Minimization, NeurIPS 2004.
    """

    name = "nise"
    largest: float = 1.0

    def __post_init__(self) -> None:
        self._check("largest", above=0)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        return (schema.term(task, task.given, self, entire_space=True),)

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        where = term.population
        rest = labels.outside(where)
        yes, no = labels.outcome(where)
        log_yes, log_no = scores.log_probability(term.yes), scores.log_probability(term.no)
        entropy = scores.cross_entropy(term, log_yes.exp())
        ours = -(log_yes * yes + log_no * no) + entropy * rest
        happened, other = (
            scores.log_probability(paths) for paths in (where.happened, where.did_not_happen)
        )
        condition = -(happened * (yes | no) + other * rest)
        # Both are means over the same rows, whose number cancels.
        ratio = condition.sum() / ours.sum().clamp(min=1e-12)
        w = ratio.detach().clamp(max=self.largest).expand_as(entropy)
        return (
            Summand(yes, w, -log_yes, positive=True),
            Summand(no, w, -log_no),
            Summand(rest, w, entropy, counts=False),
        )
