"""Doubly robust learning, with the error imputed from a soft label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polyrank.debias.ips import weighted
from polyrank.debias.propensity import PropensityWeighted
from polyrank.errors import SchemaError
from polyrank.loss_method import Summand

IMPUTATION = "imputation"


@dataclass(frozen=True, kw_only=True)
class DR(PropensityWeighted):
    """An imputed error on all rows, corrected where the condition happened.

    The loss is mean over all B rows of ê + o·(δ(y, r) − ê)/p, in the notation of `IPS`. It is
    unbiased if p or ê is right, and varies less than IPS where ê is good.

    An auxiliary head predicts a soft label ỹ, and ê = δ(ỹ, r): never negative and as unbounded as
    the log loss, which a head that predicts the error itself is not. So the first term is `IPS` on
    rows where the condition happened, plus δ(ỹ, r) on all rows, minus δ(ỹ, r)/p where it happened.
    A second term trains ỹ alone, with r held constant: mean of o·v·(δ(y, r) − ê)², where v = 1/p.

    Args:
        floor: the least p, within (0, 1].
        mrdr: whether v = (1 − p)/p² instead: it minimises the variance of the estimate.

    Raises:
        SchemaError: an option out of range.

    Examples:
        >>> from polyrank.schema import Schema, SparseFeature, Task
        >>> tasks = [Task("click"), Task("buy", given="click", debias=DR(mrdr=True))]
        >>> schema = Schema([SparseFeature("item")], tasks)
        >>> [term.name for term in schema.objective][1:]
        ['buy|click @ click [dr]', 'buy|click @ click [dr imputation]']
        >>> [head.name for head in schema.heads]
        ['click', 'buy', 'buy#imputation']

    Reference:
        Wang et al., Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random,
        ICML 2019; Su et al., SIGIR 2024, equation 4; for `mrdr` Guo et al., Enhanced Doubly Robust
        Learning for Debiasing Post-Click Conversion Rate Estimation, SIGIR 2021.
    """

    name = "dr"
    mrdr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mrdr, bool):
            raise SchemaError(f"{self._where('mrdr')} must be true or false, got {self.mrdr!r}")

    def heads(self, task: Any) -> tuple[str, ...]:
        return (IMPUTATION,)

    def terms(self, schema: Any, task: Any) -> tuple[Any, ...]:
        return doubly_robust_terms(self, schema, task)

    def summands(self, term: Any, scores: Any, labels: Any) -> tuple[Summand, ...]:
        p = self.propensity(term, scores)
        variance = (1 - p) / p.square() if self.mrdr else 1 / p
        return doubly_robust(term, scores, labels, 1 / p, variance)


def doubly_robust_terms(
    method: PropensityWeighted, schema: Any, task: Any, weight: float = 1.0
) -> tuple[Any, ...]:
    """Return the term of r, then that of the soft label."""
    return tuple(
        schema.term(task, task.given, method, part, weight=weight, entire_space=True)
        for part in (None, IMPUTATION)
    )


def doubly_robust(
    term: Any, scores: Any, labels: Any, weight: Any, variance: Any
) -> tuple[Summand, ...]:
    """Return the summands of either term; `variance` weighs the imputation's squared errors."""
    task = term.population.task
    soft = scores.logits[f"{task}#{IMPUTATION}"].sigmoid()
    yes, no = labels.outcome(term.population)
    log_yes, log_no = scores.log_probability(term.yes), scores.log_probability(term.no)
    if term.part == IMPUTATION:
        # δ(y, r) − δ(ỹ, r) = −(y − ỹ)·(log r − log(1 − r))
        error = (yes.to(soft.dtype) - soft) * (log_yes - log_no).detach()
        return (Summand(yes | no, variance, error.square()),)
    soft, rest = soft.detach(), labels.outside(term.population)
    imputed = ((-soft * log_yes, True), (-(1 - soft) * log_no, False))
    corrected = [
        Summand(yes | no, 1 - weight, value, positive=positive, counts=False)
        for value, positive in imputed
    ]
    elsewhere = [
        Summand(rest, 1.0, value, positive=positive, counts=False) for value, positive in imputed
    ]
    return (*weighted(term, scores, labels, weight), *corrected, *elsewhere)
