"""One HTML file from evidence: headline, contents, sections, and the charts' runtime, once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files

import vl_convert

from polyrank.labels import LABELS
from polyrank.metrics.registry import metrics_of
from polyrank.metrics.score import Score
from polyrank.report.blocks import Section
from polyrank.report.evidence import Evidence
from polyrank.report.sections import SECTIONS
from polyrank.report.sections.scores import interval, number

# The page may use what it carries and nothing else: a browser refuses any load from elsewhere.
# Vega compiles its expressions, hence 'unsafe-eval'.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data:"
)


def page(evidence: Evidence, *, written: datetime) -> str:
    """Return the page as HTML that needs nothing beside it."""
    sections = sections_of(evidence)
    title = f"{evidence.name} · polyrank report"
    return document(title, _headline(evidence), sections, written=written)


def sections_of(evidence: Evidence) -> list[Section]:
    """Return the sections of the page that have something to show, in order."""
    return [found for section in SECTIONS if (found := section(evidence)) is not None]


def document(title: str, headline: str, sections: Sequence[Section], *, written: datetime) -> str:
    """Return HTML that needs nothing beside it: a headline in HTML, the contents, the sections."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_packaged('page.css')}</style>\n"
        f"</head>\n<body>\n<header>{headline}</header>\n"
        f'<nav aria-label="Contents"><ul>{_contents(sections)}</ul></nav>\n'
        f"<main>\n{''.join(f'{section.html()}{chr(10)}' for section in sections)}</main>\n"
        f"<footer><p>Written by polyrank on {written:%Y-%m-%d %H:%M %Z}. This file loads nothing "
        "from anywhere.</p></footer>\n"
        f"<script>(function () {{\n{_runtime()}\n}})();</script>\n"
        f"<script>\n{_packaged('page.js')}</script>\n</body>\n</html>\n"
    )


def _headline(evidence: Evidence) -> str:
    """Return name, facts and the figures that a reviewer looks for first."""
    card, config = evidence.scorecard, evidence.config
    trunk = config.get("model", {}).get("trunk", {})
    facts = [f"{trunk.get('kind', 'own')} trunk", f"seed {config.get('seed', '–')}"]
    if evidence.trained is not None:
        facts.append(f"trained {evidence.trained:%Y-%m-%d %H:%M}")
    if card is not None:
        rows = max((score.rows or 0 for score in card), default=0)
        facts.append(f"{rows:,} {card.split} rows")
    figures = "".join(map(_figure, card or ()))
    line = " · ".join(escape(fact) for fact in facts)
    return f'<p class="kind">polyrank report</p><h1>{escape(evidence.name)}</h1><p>{line}</p>' + (
        f'<ul class="headlines">{figures}</ul>' if figures else ""
    )


def _figure(score: Score) -> str:
    """Return one score as the metric that its kind of label looks at first, and its counts."""
    first, metrics = LABELS[score.kind].default_metric, metrics_of(score.kind)
    measured = score.metrics.get(first)
    if measured is None:
        value, detail = "–", score.absent.get(first, "not measured")
    else:
        value, detail = number(measured["value"]), interval(measured)
    counts = {name: getattr(score, name) for name in LABELS[score.kind].counts}
    facts = [f"{count:,} {name}" for name, count in counts.items() if count is not None]
    facts = facts or ["true probabilities"]
    facts += [
        f"{metrics[name].title} {number(parts['value'])}"
        for name, parts in score.metrics.items()
        if metrics[name].best is not None
    ]
    line = " · ".join(fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in facts)
    name, what = escape(score.name), escape(metrics[first].title)
    return (
        f'<li><span class="name">{name}</span><span class="value"><small>{what}</small> {value} '
        f'<small class="detail">{escape(detail)}</small></span>'
        f'<span class="facts">{escape(line)}</span></li>'
    )


def _contents(sections: Sequence[Section]) -> str:
    return "".join(
        f'<li><a href="#{escape(each.anchor)}">{escape(each.title)}</a></li>' for each in sections
    )


def _packaged(name: str) -> str:
    return (files("polyrank.report") / name).read_text(encoding="utf-8")


@cache
def _runtime() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which puts `vegaEmbed` on `window`.

    Bundling takes seconds: a process that writes several pages does it once.
    """
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")
