"""Tables as text and as HTML, numbers of things, and the words of a column's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as columns aligned by spaces; `right` holds the columns that align right.

    Examples:
        >>> print(aligned(["term", "rows"], [["click @ all", "7"]], right=[1]))
        term         rows
        click @ all     7
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as an HTML table, for `_repr_html_`.

    Examples:
        >>> html_table(["term"], [["click @ all"]])
        '<table><tr><th>term</th></tr><tr><td>click @ all</td></tr></table>'
    """
    lines = [
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        for tag, cells in [("th", header), *(("td", row) for row in rows)]
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words.

    Examples:
        >>> counted(1, "row"), counted(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def says(name: str, words: Iterable[str]) -> str | None:
    """Return the first of the words that is a part of a name; None if none is.

    Examples:
        >>> says("isClicked", ["click", "clicked"]), says("deposit", ["pos"])
        ('clicked', None)
        >>> says("是否点击", ["点击"])
        '点击'
    """
    parts = {part.lower() for part in _PARTS.findall(name)}
    return next(
        (each for each in words if each in parts or (not each.isascii() and each in name)), None
    )
