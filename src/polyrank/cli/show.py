"""What several verbs print: what was found, as text or JSON; counts; a profile."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))


def show(found: Any, *, json: bool) -> None:
    """Print what was found as text, or as JSON."""
    if json:
        print_json(found.to_json())
    else:
        print(found)


def print_counts(unseen: Mapping[str, int], nulls: Mapping[str, int], rows: int) -> None:
    """Report on stderr how many ids were unseen and how many values were null."""
    for what, counts in (("unseen or rare ids", unseen), ("nulls", nulls)):
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if shown:
            sys.stderr.write(f"{what} in {rows:,} rows: {shown}\n")


def print_profile(profile: Mapping[str, Any]) -> None:
    """Print where a step's time goes."""
    from rich.console import Console
    from rich.table import Table

    table = Table("part", box=None, pad_edge=False)
    table.add_column("ms/step", justify="right")
    table.add_column("share", justify="right")
    for each in profile["parts"]:
        table.add_row(each["part"], f"{each['ms_per_step']:.3f}", f"{each['share']:.1%}")
    total = sum(each["ms_per_step"] for each in profile["parts"])
    table.add_row("step", f"{total:.3f}", "100.0%" if profile["parts"] else "")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{profile['steps']:,} steps, {profile['rows_per_second']:,.0f} rows/s")
