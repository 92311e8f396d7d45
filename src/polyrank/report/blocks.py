"""What a page is made of: paragraphs, tables, figures. Each knows its HTML; all escape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, Protocol

import altair as alt


class Block(Protocol):
    """A part of a section."""

    def html(self) -> str:
        """Return the block as HTML, every text escaped."""
        ...


@dataclass(frozen=True)
class Section:
    """One headed part of a page."""

    title: str  # also the entry in the contents
    blocks: tuple[Block, ...]  # figures that follow each other stand side by side if there is room

    @property
    def anchor(self) -> str:
        """What a link within the page leads to."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())

    def html(self) -> str:
        """Return the section as HTML."""
        parts, row = [], []
        for block in (*self.blocks, None):
            if isinstance(block, Figure):
                row.append(block.html())
                continue
            if row:
                parts.append(f'<div class="figures">{"".join(row)}</div>')
                row = []
            if block is not None:
                parts.append(block.html())
        head = f"<h2>{escape(self.title)}</h2>"
        return f'<section id="{escape(self.anchor)}">{head}{"".join(parts)}</section>'


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str

    def html(self) -> str:
        """Return the paragraph as HTML."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Heading:
    """A heading within a section, as a figure has one."""

    text: str

    def html(self) -> str:
        """Return the heading as HTML."""
        return f"<h3>{escape(self.text)}</h3>"


@dataclass(frozen=True)
class Note:
    """What a reader must not miss."""

    text: str
    level: Literal["info", "warning", "error"] = "info"

    def html(self) -> str:
        """Return the note as HTML."""
        return f'<p class="note {self.level}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class Listing:
    """Names and their values, one line each."""

    pairs: tuple[tuple[str, str], ...]

    def html(self) -> str:
        """Return a description list."""
        lines = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self.pairs)
        return f'<dl class="listing">{"".join(lines)}</dl>'


@dataclass(frozen=True)
class Code:
    """Text as it is in a file."""

    text: str

    def html(self) -> str:
        """Return preformatted text that the keyboard can scroll."""
        return f'<pre tabindex="0"><code>{escape(self.text)}</code></pre>'


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    text: str
    detail: str = ""  # beneath it and smaller, such as an interval
    reason: str = ""  # why there is none; shown on hovering, and told in the table's notes


@dataclass(frozen=True)
class ReportTable:
    """A table whose rows become cards on a narrow screen; the first column names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    text_columns: tuple[int, ...] = (0,)  # those that hold words; the others hold numbers
    notes: tuple[str, ...] = ()  # beneath the table

    def html(self) -> str:
        """Return the table and its notes as HTML."""
        head = "".join(
            f'<th scope="col"{self._kind(index)}>{escape(name)}</th>'
            for index, name in enumerate(self.header)
        )
        body = "".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f'<div class="table"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
        )

    def _row(self, row: Sequence[Cell]) -> str:
        parts = []
        for index, cell in enumerate(row):
            detail = f' <span class="detail">{escape(cell.detail)}</span>' if cell.detail else ""
            reason = f' title="{escape(cell.reason)}"' if cell.reason else ""
            shown = f"<span>{escape(cell.text)}{detail}</span>"
            if index == 0:
                parts.append(f'<th scope="row"{reason}>{shown}</th>')
                continue
            label = f' data-label="{escape(self.header[index])}"'
            parts.append(f"<td{label}{self._kind(index)}{reason}>{shown}</td>")
        return "".join(parts)

    def _kind(self, index: int) -> str:
        return ' class="text"' if index in self.text_columns else ""


@dataclass(frozen=True, eq=False)
class Figure:
    """Charts under one title, with a sentence on what they say or how to read them."""

    title: str
    caption: str  # what figures that follow each other share, stands above them
    charts: tuple[alt.LayerChart, ...]  # above each other
    wide: bool = False  # takes the whole width of the page

    def html(self) -> str:
        """Return the figure as HTML; each chart's specification follows its place."""
        label = escape(f"{self.title}: {self.caption}")
        kind = ' class="wide"' if self.wide else ""
        charts = "".join(
            f'<div class="chart" role="img" aria-label="{label}"></div>'
            f'<script type="application/json">{embedded(spec(chart))}</script>'
            for chart in self.charts
        )
        return (
            f"<figure{kind}><h3>{escape(self.title)}</h3>{charts}"
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def spec(chart: alt.LayerChart) -> dict[str, Any]:
    """Return a chart as JSON tables, without the address of its schema: a page loads nothing.

    They are not validated, which takes most of a page's time; the tests do.
    """
    table = chart.to_dict(validate=False)
    return {key: value for key, value in table.items() if key != "$schema"}


def embedded(value: object) -> str:
    r"""Return JSON that no HTML parser can leave.

    Examples:
        >>> print(embedded("</script>"))
        "\u003c/script>"
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def section_of(title: str, text: str, figures: Sequence[Figure]) -> Section | None:
    """Return a section of figures under a paragraph, or none without a figure."""
    return Section(title, (Paragraph(text), *figures)) if figures else None
