"""Runs side by side, each on one thread of a process of its own, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from parts.baselines import BASELINES, baseline, baseline_log
from parts.logs import LOGS, AbsentLogError, located
from parts.record import origin, write
from parts.settings import AS_IT_IS, Setting
from parts.trials import log_of, oracle, trial
from polyrank.errors import ConfigError

ORACLE = "oracle"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        log: its name.
        line: of the table: the oracle, a baseline, or the name of a setting.
        seed: of the run, and of a generated log.
        rows: training rows of a generated log; None takes its own.
        path: where the log's files lie, where not at the usual place.
        setting: of a trial.
    """

    log: str
    line: str
    seed: int
    rows: int | None = None
    path: Path | None = None
    setting: Setting | None = None

    @property
    def key(self) -> str:
        """Its name in the results file."""
        return f"{self.log} | {self.line} | {self.seed}"

    def decided_by(self) -> dict[str, Any]:
        """Return what decides the figures, beside code: a kept run of something else is run again.

        Raises:
            ConfigError: an option that this version of the library does not know.
        """
        own = {} if self.setting is None else self.setting.resolved()
        rows = (self.rows or LOGS[self.log].rows) if LOGS[self.log].generated else None
        return {"rows": rows, **own}

    def run(self) -> dict[str, Any]:
        """Return the figures, the seconds and the peak of memory in MiB, the log's included."""
        if self.line in BASELINES:
            log = baseline_log(self.log, self.seed, self.rows, self.path)
        else:
            log = log_of(self.log, self.seed, self.rows, self.setting or AS_IT_IS, self.path)
        _forget_peak()
        if self.line == ORACLE:
            found: dict[str, Any] = {each: oracle(log, each) for each in ("valid", "test")}
        elif self.line in BASELINES:
            found = baseline(log, BASELINES[self.line].learn, self.seed)
        else:
            model, training = (self.setting or AS_IT_IS).built()
            found = trial(log, model, training, self.seed)
        return {**found, "peak_mib": _peak_mib()}


class Kept:
    """Finished runs in a file, from which an interrupted benchmark goes on."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, about
        self.runs: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, Any] = {}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            self.runs, self.settings = found["runs"], found["settings"]

    def missing(self, jobs: Sequence[Job], again: Sequence[str] = ()) -> list[Job]:
        """Return the jobs that were not run, were run with other settings, or are to run again."""
        found = []
        for job in jobs:
            kept = self.runs.get(job.key)
            if kept is None or job.line in again or kept["setting"] != _digest(job.decided_by()):
                found.append(job)
        return found

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        """Keep a run."""
        decided = job.decided_by()
        digest = _digest(decided)
        self.settings[digest] = decided
        self.runs[job.key] = {**result, "setting": digest}
        used = {each["setting"] for each in self.runs.values()}
        self.settings = {key: each for key, each in self.settings.items() if key in used}
        about = {**origin("scikit-learn", "lightgbm"), **self.about}
        write(self.path, {**about, "settings": self.settings, "runs": self.runs})


def finish(kept: Kept, jobs: Sequence[Job], workers: int) -> list[str]:
    """Run jobs, `workers` at a time, and keep each; return what failed."""
    failed = []
    for done, (job, result) in enumerate(_results(jobs, workers), 1):
        if isinstance(result, str):
            failed.append(f"{job.key}\n{result}")
            print(f"{done}/{len(jobs)}  {job.key}: failed", flush=True)
            continue
        kept.add(job, result)
        took = f"{result['seconds']:.0f} s, " if "seconds" in result else ""
        print(f"{done}/{len(jobs)}  {job.key}: {took}{result['peak_mib']} MiB", flush=True)
    return failed


def _results(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, dict[str, Any] | str]]:
    if not jobs:
        return
    os.environ.update(ONE_THREAD)  # which the processes to come inherit
    with get_context("spawn").Pool(min(workers, len(jobs)), _warm) as pool:
        yield from pool.imap_unordered(_result, jobs)


def _warm() -> None:
    """Import and compile what a first run does, so that no run's seconds hold it."""
    torch.set_num_threads(1)
    trial(log_of("fields", 0, 1_000), *Setting(training={"epochs": 1}).built(), 0)


def _result(job: Job) -> tuple[Job, dict[str, Any] | str]:
    try:
        return job, job.run()
    except Exception:  # noqa: BLE001  a failed run is shown at the end and does not stop the others
        return job, traceback.format_exc()


def present(names: Sequence[str], paths: Mapping[str, Path | None]) -> list[str]:
    """Return the logs whose files are here, and name the others."""
    found = []
    for name in names:
        try:
            located(name, paths.get(name))
        except AbsentLogError as error:
            print(f"skipped: {error}")
        else:
            found.append(name)
    return found


def known(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings whose options this version of the library knows; name the others."""
    found = {}
    for name, setting in settings.items():
        try:
            setting.resolved()
        except ConfigError as error:
            print(f"skipped: {name}: {error}")
        else:
            found[name] = setting
    return found


def _digest(decided: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:12]


def _forget_peak() -> None:
    """Start the peak of memory anew, where the system can: only Linux tells it anyway."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mib() -> int | None:
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return None
