"""The charts of a page as files of their own, for slides and papers: SVG and PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import altair as alt
import vl_convert

from polyrank.report.blocks import Figure, spec
from polyrank.report.evidence import Evidence
from polyrank.report.page import sections_of

WIDTH = 480  # pixels, of a chart that is as wide as its place on the page
INK, PAPER = "#1b1f23", "#ffffff"  # what a page says of itself, and a file must be told
SCALE = 2.0  # pixels of a PNG for each of the chart's


def pictures(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each file, an SVG and a PNG a chart."""
    names: set[str] = set()
    for section in sections_of(evidence):
        for figure in (each for each in section.blocks if isinstance(each, Figure)):
            for chart in figure.charts:
                name = _unused(f"{section.title} {figure.title}", names)
                drawn = json.dumps(standing(chart))
                yield f"{name}.svg", vl_convert.vegalite_to_svg(drawn).encode()
                yield f"{name}.png", vl_convert.vegalite_to_png(drawn, scale=SCALE)


def standing(chart: alt.LayerChart) -> dict[str, Any]:
    """Return a chart that needs no page around it: of a width, and with colours of its own."""
    text = json.dumps(spec(chart)).replace('"currentColor"', json.dumps(INK))
    table = json.loads(text)
    table["width"] = WIDTH
    table["config"] |= {"background": PAPER, "padding": 10}
    table["config"].pop("autosize", None)
    return table


def _unused(title: str, names: set[str]) -> str:
    """Return a title as the name of a file that no other chart has.

    Examples:
        >>> names = set()
        >>> _unused("Calibration click @ all", names), _unused("Calibration click @ all", names)
        ('calibration-click-all', 'calibration-click-all-2')
    """
    name = re.sub(r"\W+", "-", title.lower()).strip("-_") or "chart"
    name, number = name[:80], 1
    found = name
    while found in names:
        number += 1
        found = f"{name}-{number}"
    names.add(found)
    return found
