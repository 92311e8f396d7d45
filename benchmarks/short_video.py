"""Watch time of short videos, learned in six ways side by side, on rows of KuaiRand.

The file is a table of KuaiRand's log columns (`user_id`, `video_id`, `time_ms`, `is_click`,
`long_view`, `play_time_ms`, `duration_ms`, `label` (1 like, 0 hate), `is_comment`, `is_follow`,
`is_forward`, `is_profile_enter`), as tab- or comma-separated text; no row of it is kept here. The
tasks are click, then given it a long view and the seconds watched; like, comment, follow, forward
and profile are roots of their own. Rows are split by time, 80 % to train, 10 % to choose the epoch
and 10 % to score.

Seconds are learned up to the video's duration, once; a duration of 0 is unknown. A long view
without a click is an orphan, whose long view counts as none. The ways differ in the kind of the
seconds' label alone. All are measured on the same clicked test rows: Kendall's τ-b within 30 groups
of duration, of all rows, and the mean absolute error in seconds, with differences from the plain
regression over seeds (Student's t, 95 %). "duration alone" predicts the mean share of the training
rows times the duration. Writes results/short_video.json.

With --out, Parquet files, experiments and runs stay there, so that the verbs `check`, `report`,
`export` and `serve` can be tried on them.

    python benchmarks/short_video.py PATH [--seeds 5] [--epochs N] [--rows N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from parts.record import RESULTS, origin, write
from parts.seeds import shown, spread

import polyrank as pr
from polyrank.data.check import check
from polyrank.data.read import read
from polyrank.labels import LABELS
from polyrank.metrics.concordance import tau_b, tau_b_in_groups
from polyrank.metrics.regression import mae
from polyrank.spec import to_table
from polyrank.text import aligned

ROOTS = {
    "like": "label", "comment": "is_comment", "follow": "is_follow", "forward": "is_forward",
    "profile": "is_profile_enter",
}  # fmt: skip
SECONDS, WATCHED, DURATION = "play_seconds", "watched_seconds", "duration_seconds"
# The label's column and its kind. A watch time clips at the duration itself, others are given it.
WAYS = {
    "regression": (WATCHED, '"regression"'),
    "log1p": (WATCHED, '{ kind = "regression", transform = "log1p" }'),
    **{
        method: (
            SECONDS,
            f'{{ kind = "watch_time", duration = "{DURATION}", method = "{method}" }}',
        )
        for method in ("d2q", "pcr", "censored")
    },
    "weighted logistic": (WATCHED, '{ kind = "weighted_logistic" }'),
}
METRICS = ("tau_b in groups", "tau_b", "mae")
SCORE = "play|click @ click"
FRACTIONS = (0.8, 0.9)


def prepared(path: Path, rows: int | None) -> dict[str, pl.DataFrame]:
    """Return the splits of a log, in the order of time."""
    separator = "\t" if path.suffix == ".tsv" else ","
    log = pl.read_csv(path, separator=separator)
    if rows is not None:
        log = log.gather_every(max(log.height // rows, 1))
    duration = pl.when(pl.col("duration_ms") > 0).then(pl.col("duration_ms") / 1000)
    log = log.sort("time_ms", maintain_order=True).select(
        "user_id",
        "video_id",
        "time_ms",
        "long_view",
        *ROOTS.values(),
        click="is_click",
        hour=pl.col("time_ms") // 3_600_000 % 24,
        **{DURATION: duration, SECONDS: pl.col("play_time_ms") / 1000},
    )
    log = log.with_columns(pl.min_horizontal(SECONDS, DURATION).alias(WATCHED))
    first, second = (int(log.height * each) for each in FRACTIONS)
    return {"train": log[:first], "valid": log[first:second], "test": log[second:]}


def experiment(way: str) -> str:
    """Return an experiment's file."""
    label, kind = WAYS[way]
    roots = "\n".join(
        f'[[task]]\nname = "{name}"\nlabel = "{each}"' for name, each in ROOTS.items()
    )
    return f"""name = "{way}"
[data]
train = "train.parquet"
valid = "valid.parquet"
test = "test.parquet"
orphans = "zero"
[keys]
user = "user_id"
time = "time_ms"
[features]
sparse = ["user_id", "video_id", "hour"]
dense = ["{DURATION}"]
[[task]]
name = "click"
[[task]]
name = "long_view"
given = "click"
[[task]]
name = "play"
label = "{label}"
given = "click"
kind = {kind}
{roots}
[model]
trunk = {{ kind = "shared_bottom" }}
"""


def known_ways() -> dict[str, str]:
    """Return why ways cannot be learned, by name: a kind may lack an option here."""
    fields = to_table(LABELS["regression"]())
    return {} if "transform" in fields else {"log1p": "the kind regression has no transform here"}


def groups_of(splits: dict[str, pl.DataFrame]) -> tuple[np.ndarray, float]:
    """Return the group of duration of each clicked test row, and training's mean share watched."""
    kind = pr.WatchTime(duration=DURATION, method="pcr")
    own = splits["train"].filter(click=1)
    label, duration = (own[name].cast(pl.Float32).to_numpy() for name in (WATCHED, DURATION))
    fitted = kind.fit(label.astype(np.float64), np.ones(len(label)), {DURATION: duration})
    later = splits["test"].filter(click=1)[DURATION].cast(pl.Float32).to_numpy()
    share = float(np.nanmean(label / duration))
    return kind.row_groups(fitted, {DURATION: later}).codes, share


def measured(label: np.ndarray, prediction: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return what a prediction of the clicked test rows is worth."""
    within = tau_b_in_groups(label, prediction, key=groups)
    return dict(
        zip(METRICS, (within, tau_b(label, prediction), mae(label, prediction)), strict=True)
    )


def main() -> None:
    """Train all ways for some seeds, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", type=Path, nargs="?", help="the log; without it nothing is done")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="the default of `fit` if left out")
    parser.add_argument(
        "--rows", type=int, help="about so many, spread over the file, to try it out"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="kept; a temporary folder by default")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    if args.path is None:
        print(
            "short_video: name a log of KuaiRand's columns: python benchmarks/short_video.py PATH"
        )
        return
    logging.basicConfig(level="ERROR")
    splits = prepared(args.path, args.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in splits.items():
            rows.write_parquet(folder / f"{name}.parquet")
        compared(args, folder, splits)


def compared(args: argparse.Namespace, folder: Path, splits: dict[str, pl.DataFrame]) -> None:
    """Train and measure every way."""
    without = known_ways()
    ways = [way for way in args.ways if way not in without]
    for way in ways:
        (folder / f"{way}.toml").write_text(experiment(way), encoding="utf-8")
    clips = [way for way in ways if WAYS[way][0] == SECONDS]  # and counts what it clips
    audited = pr.Experiment.load(folder / f"{(clips or ways)[0]}.toml", [])
    frames = {name: read(folder / f"{name}.parquet", audited.schema) for name in splits}
    print(check(audited.schema, frames, orphans="zero"), flush=True)
    clicked = splits["test"]["click"].to_numpy() == 1
    label = splits["test"].filter(click=1)[WATCHED].to_numpy()
    groups, share = groups_of(splits)
    duration = splits["test"].filter(click=1)[DURATION]
    filled = duration.fill_null(splits["train"][DURATION].mean()).to_numpy()
    found = {"duration alone": {"-": measured(label, share * filled, groups)}}
    changes = [f"train.threads={args.threads}"]
    changes += [] if args.epochs is None else [f"train.epochs={args.epochs}"]
    for way in ways:
        found[way] = {}
        for seed in range(1, args.seeds + 1):
            loaded = pr.Experiment.load(folder / f"{way}.toml", [f"seed={seed}", *changes])
            bundle = loaded.fit(out=folder / "runs" / way / f"seed-{seed}", force=True)
            predicted = bundle.predict(splits["test"])["play_given_click"].to_numpy()[clicked]
            score = bundle.scorecard["click @ all"]
            found[way][str(seed)] = {
                **measured(label, predicted, groups), "click auc": score.value("auc"),
                "epoch": bundle.kept_epoch,
            }  # fmt: skip
            print(way, seed, json.dumps(found[way][str(seed)]), flush=True)
    lines = []
    for way, runs in found.items():
        cells = []
        for metric in METRICS:
            values = [each[metric] for each in runs.values()]
            base = [each[metric] for each in found.get("regression", {}).values()]
            against = len(base) == len(values) and way != "regression"
            cells.append(spread(values) + (f"  ({shown(base, values)})" if against else ""))
        lines.append([way, *cells])
    print(aligned(["way, and its difference from regression", *METRICS], lines))
    for way, reason in without.items():
        print(f"– {way}: {reason}")
    sizes = {name: rows.height for name, rows in splits.items()}
    settings = {"seeds": args.seeds, "epochs": args.epochs, "rows": sizes, "clicked": len(label)}
    write(RESULTS / "short_video.json", {**origin("numba"), **settings, "ways": found})


if __name__ == "__main__":
    main()
