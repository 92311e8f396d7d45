"""The sections of a page, in order: each a function from evidence to a section, or to nothing.

A new one is a function here and a line in the list.
"""

from __future__ import annotations

from collections.abc import Callable

from polyrank.report.blocks import Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections.debiased import propensities
from polyrank.report.sections.epochs import experts, training
from polyrank.report.sections.inspected import dependence, importance
from polyrank.report.sections.predictions import (
    by_group,
    calibration,
    known_truth,
    ranking,
    spread,
)
from polyrank.report.sections.record import audit, configuration, environment, missing
from polyrank.report.sections.scores import fusion, scorecard, segments
from polyrank.report.sections.stages import first_stages
from polyrank.report.sections.values import values

SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (
    missing,
    scorecard,
    calibration,
    ranking,
    spread,
    values,
    by_group,
    known_truth,
    segments,
    importance,
    dependence,
    fusion,
    training,
    propensities,
    first_stages,
    experts,
    audit,
    configuration,
    environment,
)
