"""What verbs share in showing: JSON on stdout, a progress bar on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.train.progress import Progress


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False))


def print_counts(unseen: Mapping[str, int], nulls: Mapping[str, int], rows: int) -> None:
    """Say on stderr how many ids were unseen and how many values were null."""
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


@contextmanager
def training_bar(name: str) -> Iterator[Callable[[Progress], None]]:
    """Give an observer that draws a bar with rows a second and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(name, total=None, rate="")

        def observe(each: Progress) -> None:
            bar.update(
                task,
                description=f"{name} · epoch {each.epoch} of {each.epochs}",
                total=each.epochs * each.steps,
                completed=(each.epoch - 1) * each.steps + each.step,
                rate=f"{each.rows_per_second:,.0f} rows/s",
            )
            if each.event == "epoch":
                console.print(_line(name, each), highlight=False, markup=False, soft_wrap=True)

        yield observe


def _line(name: str, each: Progress) -> str:
    metrics = [
        f"{key} {value:.4f}"
        for key, value in each.valid.items()
        if not key.endswith(" loss") or key == "total loss"
    ]
    if not each.valid:
        metrics = [f"{term} loss {value:.4f}" for term, value in each.losses.items()]
    best = " · best" if each.best and each.valid else ""
    return f"{name} epoch {each.epoch}: {', '.join(metrics)}{best}"
