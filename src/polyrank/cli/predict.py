"""`polyrank predict RUN DATA -o OUT`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    import polars as pl

    from polyrank.data.read import Joined
    from polyrank.schema import Schema
    from polyrank.serve.batch import Counts, Predictor
    from polyrank.serve.engine import Engine, Predictions
    from polyrank.serve.shards import Shard


def predict(
    run: Path,
    data: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    raw: bool = False,
    uncertainty: bool = False,
    resume: bool = False,
    force: bool = False,
    shard: str | None = None,
    shared: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Score rows into files: key columns, then the outputs, in the order of the rows.

    Args:
        run: a run folder or a bundle folder.
        data: a CSV, TSV or Parquet file, or a glob, with or without labels.
        out: a .parquet, .csv or .tsv file, or a folder (no extension) of Parquet parts of 1,000,000
            rows.
        raw: uncalibrated probabilities, as the heads learned them; needs torch.
        uncertainty: with p_TASK_sd, the standard deviation of the logit, for each binary head that
            has wide rows; needs torch, or a bundle exported with --uncertainty.
        resume: continue the folder `out` after its last finished part; keep a shard's part.
        force: replace the parts in the folder `out`, or the shard's.
        shard: K/N, such as 2/8: score the K-th of N runs of rows into a part of the folder `out`.
            The parts of all N, in the order of their names, hold the rows as without this option.
        shared: a file of the lists that rows share, instead of the one in the run's [data].
        threads: of the model; the run's train.threads by default.
        json: print the counts as JSON.
    """
    from dataclasses import asdict

    from polyrank.cli.show import print_counts, print_json
    from polyrank.serve.shards import Shard

    part = None if shard is None else Shard.parse(shard)
    predictor, config = _predictor(run, raw=raw, uncertainty=uncertainty, threads=threads)
    rows = _with_lists(data, predictor.schema, config, shared)
    found = _scored(predictor, rows, out, part, resume=resume, force=force)
    if part:
        out /= part.part
    if json:
        print_json({"out": str(out), "engine": predictor.identity["engine"], **asdict(found)})
        return
    print_counts(found.unseen, found.nulls, found.rows)
    earlier = f", {found.resumed:,} of them in an earlier run" if found.resumed else ""
    print(f"{found.rows:,} rows scored into {out}{earlier}")


def _scored(
    predictor: Predictor,
    data: str | Joined,
    out: Path,
    shard: Shard | None,
    *,
    resume: bool,
    force: bool,
) -> Counts:
    from polyrank.errors import ConfigError
    from polyrank.serve.batch import predict_file, predict_parts, predict_shard

    if out.suffix:
        given = {"shard": shard, "resume": resume, "force": force}
        for option in (name for name, each in given.items() if each):
            raise ConfigError(
                f"--{option} works only with a folder of parts, and {out} is a file: give a name "
                "without an extension, or leave the option out"
            )
        return predict_file(predictor, data, out)
    if shard:
        return predict_shard(predictor, data, out, shard, resume=resume, force=force)
    try:
        return predict_parts(predictor, data, out, resume=resume, force=force)
    except KeyboardInterrupt:
        if out.exists():
            sys.stderr.write(f"the finished parts are in {out}; continue with --resume\n")
        raise


def _with_lists(
    data: str, schema: Schema, config: Mapping[str, Any], shared: str | None
) -> str | Joined:
    """Return rows joined with their lists, if the run's rows share any."""
    from polyrank.data.read import with_lists
    from polyrank.errors import ConfigError

    if shared is not None:
        if config.get("data", {}).get("shared") is None:
            raise ConfigError(
                "--shared names lists that rows share, and the run's experiment has no "
                "`[data] shared`: its rows hold all features"
            )
        own = {**config["data"]["shared"], "file": shared}
        config = {**config, "data": {**config["data"], "shared": own}}
    return with_lists(data, schema, config)


def _predictor(
    run: Path, *, raw: bool, uncertainty: bool, threads: int | None
) -> tuple[Predictor, Mapping[str, Any]]:
    """Return the engine of an exported bundle if it is available, else the bundle in torch.

    With it comes the run's experiment.
    """
    from functools import partial
    from importlib.util import find_spec

    from polyrank import spec
    from polyrank.bundle import format
    from polyrank.data import checksums
    from polyrank.errors import BundleError
    from polyrank.serve.batch import Predictor
    from polyrank.serve.engine import deviations_exported
    from polyrank.serve.inputs import ROWS_FILE

    folder = format.find(run)
    manifest = format.read_manifest(folder)
    exported = ROWS_FILE in manifest.get("onnx", {})
    (bundle_json,) = checksums.of_files([str(folder / format.MANIFEST)])
    identity = {"bundle": bundle_json, "engine": "onnxruntime", "raw": raw}
    if threads is not None:
        spec.whole("--threads", threads)
    if raw:
        why, remedy = "--raw was given", "--raw needs torch: an exported bundle is calibrated"
    elif not exported:
        why = f"{run} was not exported"
        remedy = f"{why}, and torch is not installed: run `polyrank export {run}` where it is"
    elif uncertainty and not deviations_exported(manifest):
        why = f"{run} was exported without --uncertainty"
        remedy = f"{why}, and torch is not installed: run `polyrank export {run} --uncertainty`"
    elif not find_spec("onnxruntime"):
        why = "onnxruntime is not installed"
        remedy = "neither onnxruntime nor torch is installed: pip install 'polyrank[serve]'"
    else:
        from polyrank.serve.engine import Engine

        engine = Engine(folder)
        sys.stderr.write("engine: onnxruntime\n")
        # Many threads with a chunk each are faster than many threads for one chunk.
        threads = threads or _threads(engine.config)
        more = deviations_exported(engine.manifest) if uncertainty else ()
        columns = [*engine.schema.outputs, *more]
        found = Predictor(engine.schema, partial(_some, engine, columns), threads, identity, more)
        return found, engine.config
    if not find_spec("torch"):
        raise BundleError(remedy)
    import torch

    from polyrank.bundle.model import load
    from polyrank.terms import deviation_column

    bundle = load(folder)
    sys.stderr.write(f"engine: torch ({why})\n")
    torch.set_num_threads(threads or _threads(bundle.config))
    asked = bundle.uncertain(uncertainty)
    predict = partial(bundle.predict_frame, raw=raw, uncertainty=asked)
    more = [deviation_column(bundle.schema.by_name[task]) for task in asked]
    found = Predictor(bundle.schema, predict, 1, {**identity, "engine": "torch"}, more)
    return found, bundle.config


def _some(engine: Engine, columns: Sequence[str], frame: pl.DataFrame) -> Predictions:
    """Return the predictions for a frame, of the columns that were asked for."""
    from dataclasses import replace

    found = engine.predict_frame(frame)
    return replace(found, outputs={name: found.outputs[name] for name in columns})


def _threads(config: Mapping[str, Any]) -> int:
    return int(config.get("train", {}).get("threads", 1))
