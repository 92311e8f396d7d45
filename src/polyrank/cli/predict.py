"""`polyrank predict RUN DATA -o OUT`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from polyrank.serve.batch import Scored, Scorer


def predict(
    run: Path,
    data: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    raw: bool = False,
    resume: bool = False,
    force: bool = False,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Score rows into files: key columns, then the outputs, in the order of the rows.

    Args:
        run: a run folder or a bundle folder.
        data: a CSV or Parquet file, or a glob; labels need not be there.
        out: a .parquet or .csv file, or a folder (no extension) of Parquet parts of 1,000,000 rows.
        raw: uncalibrated probabilities, as the heads learnt them; needs torch.
        resume: go on with the folder that is there, after its last finished part.
        force: replace the parts in the folder that is there.
        threads: of the model; the run's train.threads by default.
        json: print the counts as JSON.
    """
    from dataclasses import asdict

    from polyrank.cli.show import print_counts, print_json

    scorer = _scorer(run, raw=raw, threads=threads)
    scored = _scored(scorer, data, out, resume=resume, force=force)
    if json:
        print_json({"out": str(out), "engine": scorer.identity["engine"], **asdict(scored)})
        return
    print_counts(scored.unseen, scored.nulls, scored.rows)
    already = f", {scored.resumed:,} of them already" if scored.resumed else ""
    print(f"{scored.rows:,} rows scored into {out}{already}")


def _scored(scorer: Scorer, data: str, out: Path, *, resume: bool, force: bool) -> Scored:
    from polyrank.errors import ConfigError
    from polyrank.serve.batch import predict_file, predict_parts

    if out.suffix:
        if resume or force:
            raise ConfigError(
                f"--{'resume' if resume else 'force'} is of a folder of parts, and {out} is a "
                "file: give a name without an extension, or leave it out"
            )
        return predict_file(scorer, data, out)
    try:
        return predict_parts(scorer, data, out, resume=resume, force=force)
    except KeyboardInterrupt:
        if out.exists():
            sys.stderr.write(f"the finished parts are in {out}; go on with them by --resume\n")
        raise


def _scorer(run: Path, *, raw: bool, threads: int | None) -> Scorer:
    """Return the engine of an exported bundle if it can be had, else the bundle in torch."""
    from functools import partial
    from importlib.util import find_spec

    from polyrank.bundle import format
    from polyrank.data import checksums
    from polyrank.errors import BundleError, ConfigError
    from polyrank.serve.batch import Scorer
    from polyrank.serve.inputs import ROWS_FILE

    folder = format.find(run)
    exported = ROWS_FILE in format.read_manifest(folder).get("onnx", {})
    (bundle_json,) = checksums.of_files([str(folder / format.MANIFEST)])
    identity = {"bundle": bundle_json, "engine": "onnxruntime", "raw": raw}
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads must be at least 1, however: {threads}")
    if raw:
        why, remedy = "--raw was given", "--raw needs torch: what was exported is calibrated"
    elif not exported:
        why = f"{run} was not exported"
        remedy = f"{why}, and torch is not installed: run `polyrank export {run}` where it is"
    elif not find_spec("onnxruntime"):
        why = "onnxruntime is not installed"
        remedy = "neither onnxruntime nor torch is installed: pip install 'polyrank[serve]'"
    else:
        from polyrank.serve.engine import Engine

        # Each thread answers a chunk of its own, which is faster than many for one.
        engine = Engine(folder)
        sys.stderr.write("engine: onnxruntime\n")
        return Scorer(
            engine.schema, engine.answer_frame, threads or _threads(engine.config), identity
        )
    if not find_spec("torch"):
        raise BundleError(remedy)
    import torch

    from polyrank.bundle.model import load

    bundle = load(folder)
    sys.stderr.write(f"engine: torch, since {why}\n")
    torch.set_num_threads(threads or _threads(bundle.config))
    answer = partial(bundle.answer_frame, raw=raw)
    return Scorer(bundle.schema, answer, 1, {**identity, "engine": "torch"})


def _threads(config: Mapping[str, Any]) -> int:
    return int(config.get("train", {}).get("threads", 1))
