"""How to get the same again: what is missing, the configuration, the environment."""

from __future__ import annotations

import tomli_w

from polyrank.report.blocks import Code, Listing, Note, Paragraph, Section
from polyrank.report.evidence import Evidence


def missing(evidence: Evidence) -> Section | None:
    """Say plainly what this page could not show, and why."""
    gaps = []
    if evidence.missing is not None:
        gaps.append(
            "Reliability and ranking curves, predictions by label, predicted values, the truth, "
            "segments, trade-offs and what the experts do need the scored rows: "
            f"{evidence.missing}."
        )
    elif not evidence.labelled:
        gaps.append("No score has rows of both labels: no curve can be drawn.")
    if evidence.history.is_empty():
        gaps.append("The bundle has no history: training curves cannot be drawn.")
    if not gaps:
        return None
    return Section("Not on this page", tuple(Note(text, "warning") for text in gaps))


def configuration(evidence: Evidence) -> Section | None:
    """Return the resolved experiment, as the TOML file that would run it again."""
    text = "The resolved experiment, every default shown, as the run's config.toml has it."
    return Section("Configuration", (Paragraph(text), Code(tomli_w.dumps(dict(evidence.config)))))


def environment(evidence: Evidence) -> Section | None:
    """Return the machine and the libraries that wrote the page."""
    if not evidence.environment:
        return None
    text = "Of the process that wrote this page."
    return Section("Environment", (Paragraph(text), Listing(tuple(evidence.environment.items()))))
