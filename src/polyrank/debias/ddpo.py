"""Soft labels of a conversion-propensity head, weighted on both sides of the condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.propensity import PropensityWeighted
from polyrank.loss_method import Summand

CONVERSION = "conversion"


@dataclass(frozen=True, kw_only=True)
class DDPO(PropensityWeighted):
    """A head c learns P(y) where the condition happened; its opinion labels all other rows.

    The loss of the first term is Σ o·δ(y*, r)/p ÷ Σ o/p + Σ (1 − o)·δ(y*, r)/(1 − p)
    ÷ Σ (1 − o)/(1 − p), in the notation of `IPS`; y* is 1 where y = 1, else c, as a constant. The
    second term, mean of o·δ(y, c), trains the auxiliary head c alone. The likelihood of the joint
    on all rows comes on top.

    The paper's attention from the other two towers to this one is not part of it: that is a way of
    sharing, and stands beside any trunk.

    Args:
        floor: the least p and the least 1 − p, within (0, 1].
        debiased: weight of the first term, λr.
        conversion: weight of the second, λc.
        joint: weight of the term `buy @ all`, λt.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias="ddpo")]
        >>> [term.name for term in Schema([SparseFeature("item")], tasks).objective][1:]
        ['buy|click @ click [ddpo]', 'buy|click @ click [ddpo conversion]', 'buy @ all']

    Reference:
        Su et al., DDPO: Direct Dual Propensity Optimization for Post-Click Conversion Rate
        Estimation, SIGIR 2024, equations 6-18.
    """

    name = "ddpo"
    debiased: float = 1.0
    conversion: float = 10.0
    joint: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("debiased", "conversion", "joint"):
            self._check(option, above=0)

    def heads(self, task: Any) -> tuple[str, ...]:
        return (CONVERSION,)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        def own(part: str | None, weight: float) -> Any:
            return schema.term(task, task.given, self, part, weight=weight, entire_space=True)

        joint = schema.term(task, "all", weight=self.joint)
        return own(None, self.debiased), own(CONVERSION, self.conversion), joint

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        head = f"{term.population.task}#{CONVERSION}"
        yes, no = labels.outcome(term.population)
        if term.part == CONVERSION:
            return (
                Summand(yes, 1.0, scores.head_entropy(head, 1.0), positive=True),
                Summand(no, 1.0, scores.head_entropy(head, 0.0)),
            )
        soft = scores.cross_entropy(term, scores.logits[head].sigmoid().detach())
        rest, over = labels.outside(term.population), yes | no
        factual = 1 / self.propensity(term, scores)
        counterfactual = 1 / self.complement(term, scores)
        sure = -scores.log_probability(term.yes)
        return (
            Summand(yes, factual, sure, positive=True, over=over),
            Summand(no, factual, soft, over=over),
            Summand(rest, counterfactual, soft, counts=False, over=rest),
        )
