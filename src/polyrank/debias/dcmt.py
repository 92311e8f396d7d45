"""A twin that predicts the opposite on rows where the condition did not happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.ips import weighted
from polyrank.debias.propensity import PropensityWeighted
from polyrank.loss_method import Summand

TWIN = "twin"


@dataclass(frozen=True, kw_only=True)
class DCMT(PropensityWeighted):
    """Self-normalised weights on both sides of the condition, and a twin that ties them together.

    The loss is Σ o·δ(y, r)/p ÷ Σ o/p + Σ (1 − o)·δ(1, r*)/(1 − p) ÷ Σ (1 − o)/(1 − p)
    + λ · mean |r + r* − 1|, in the notation of `IPS`; r* is an auxiliary head. The likelihood of
    the joint on all rows comes on top.

    On rows where the condition did not happen, the outcome counts as 0 and the twin learns its
    opposite, 1. So r* → 1 there, and through the constraint r → 0: a soft form of "not observed is
    negative". A metric that scores P(buy|click) on all rows with those labels rewards that; the
    truth need not.

    Args:
        floor: the least p and the least 1 − p, within (0, 1].
        constraint: λ.
        joint: weight of the term `buy @ all`.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias="dcmt")]
        >>> [term.name for term in Schema([SparseFeature("item")], tasks).objective]
        ['click @ all', 'buy|click @ click [dcmt]', 'buy @ all']

    Reference:
        Zhu et al., DCMT: A Direct Entire-Space Causal Multi-Task Framework for Post-Click
        Conversion Estimation, ICDE 2023.
    """

    name = "dcmt"
    constraint: float = 0.1
    joint: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("constraint", least=0)
        self._check("joint", above=0)

    def heads(self, task: Any) -> tuple[str, ...]:
        return (TWIN,)

    def start(self, head: str, rate: float) -> float:
        return 1 - super().start(head, rate)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        return (
            schema.term(task, task.given, self, entire_space=True),
            schema.term(task, "all", weight=self.joint),
        )

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        twin = f"{term.population.task}#{TWIN}"
        rest = labels.outside(term.population)
        yes, no = labels.outcome(term.population)
        factual = 1 / self.propensity(term, scores)
        counterfactual = 1 / self.complement(term, scores)
        p = scores.log_probability(term.yes).exp()
        apart = (p + scores.logits[twin].sigmoid() - 1).abs()
        return (
            *weighted(term, scores, labels, factual, normalized=True),
            Summand(rest, counterfactual, scores.head_entropy(twin, 1.0), counts=False, over=rest),
            Summand(yes | no | rest, self.constraint, apart, counts=False),
        )
