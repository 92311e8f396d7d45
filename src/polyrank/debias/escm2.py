"""The entire-space counterfactual multi-task models: IPS or DR, and the joint on all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.dr import IMPUTATION, doubly_robust, doubly_robust_terms
from polyrank.debias.ips import weighted
from polyrank.debias.propensity import PropensityWeighted
from polyrank.loss_method import Summand


@dataclass(frozen=True, kw_only=True)
class _ESCM2(PropensityWeighted):
    """What both have: the weights of the two risks.

    Args:
        floor: the least p, within (0, 1].
        counterfactual: weight of the counterfactual risk, λc.
        joint: weight of the global risk, λg: the term `buy @ all`, P(click)·P(buy|click).

    Raises:
        SchemaError: an option out of range.
    """

    counterfactual: float = 1.0
    joint: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("counterfactual", above=0)
        self._check("joint", above=0)


@dataclass(frozen=True, kw_only=True)
class ESCM2IPS(_ESCM2):
    """λc · `IPS` + λg · the likelihood of the joint on all rows.

    Only the joint's term trains the heads above: the propensity in the weights is a constant.

    Args:
        floor: the least p, within (0, 1].
        counterfactual: weight of the IPS term, λc.
        joint: weight of the term `buy @ all`, λg.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias="escm2_ips")]
        >>> [(each.name, each.weight) for each in Schema([SparseFeature("item")], tasks).objective]
        [('click @ all', 1.0), ('buy|click @ click [escm2_ips]', 1.0), ('buy @ all', 1.0)]

    Reference:
        Wang et al., ESCM²: Entire Space Counterfactual Multi-Task Model for Post-Click Conversion
        Rate Estimation, SIGIR 2022.
    """

    name = "escm2_ips"

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        weight = self.counterfactual
        return (
            schema.term(task, task.given, self, weight=weight, entire_space=True),
            schema.term(task, "all", weight=self.joint),
        )

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        return weighted(term, scores, labels, 1 / self.propensity(term, scores))


@dataclass(frozen=True, kw_only=True)
class ESCM2DR(_ESCM2):
    """λc · `DR`, its imputation included, + λg · the likelihood of the joint on all rows.

    The imputation is that of `DR`, a soft label, and its loss trains the imputation head alone.

    Args:
        floor: the least p, within (0, 1].
        counterfactual: weight of the doubly robust terms, λc.
        joint: weight of the term `buy @ all`, λg.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias="escm2_dr")]
        >>> [term.name for term in Schema([SparseFeature("item")], tasks).objective][2:]
        ['buy|click @ click [escm2_dr imputation]', 'buy @ all']

    Reference:
        Wang et al., ESCM²: Entire Space Counterfactual Multi-Task Model for Post-Click Conversion
        Rate Estimation, SIGIR 2022.
    """

    name = "escm2_dr"

    def heads(self, task: Any) -> tuple[str, ...]:
        return (IMPUTATION,)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        robust = doubly_robust_terms(self, schema, task, self.counterfactual)
        return (*robust, schema.term(task, "all", weight=self.joint))

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        weight = 1 / self.propensity(term, scores)
        return doubly_robust(term, scores, labels, weight, weight)
