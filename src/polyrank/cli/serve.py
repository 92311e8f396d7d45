"""`polyrank serve RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def serve(
    run: str,
    /,
    *more: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_body_mb: float = 16.0,
    max_rows: int = 10_000,
    timeout: float = 5.0,
    queue: int = 64,
    total_mb: float = 256.0,
    connections: int = 512,
    drain: float = 1.0,
    threads: int = 1,
    workers: int = 1,
    watch: bool = False,
    share: tuple[str, ...] = (),
    split_by: str | None = None,
    shadow: tuple[str, ...] = (),
    log_rows: Path | None = None,
    log_column: tuple[str, ...] = (),
    log_share: float | None = None,
    log_mb: float | None = None,
    log_file_rows: int | None = None,
    log_file_seconds: float | None = None,
) -> None:
    """Serve over HTTP: rows in, named probabilities and their ranking out.

    Args:
        run: a run folder or a bundle folder that `polyrank export` has written to; NAME=FOLDER
            gives it a name.
        more: others, each NAME=FOLDER, at /v1/models/NAME/score.
        host: address to listen on; 0.0.0.0 for all addresses of this machine.
        port: 0 takes a free one.
        max_body_mb: largest body, in MiB.
        max_rows: most rows per request.
        timeout: seconds for a body to arrive, and again for its answer.
        queue: scoring requests that may wait or run.
        total_mb: bodies in memory at once, in MiB.
        connections: open at once.
        drain: seconds of accepting with `Connection: close` after SIGTERM.
        threads: of one run of the graph.
        workers: processes that answer; tables and vocabularies are in memory once.
        watch: load a new bundle as soon as it is there, as SIGHUP does.
        share: NAME=SHARE, the part of the traffic of /v1/score that this model answers; the first
            one answers the rest.
        split_by: column whose hash chooses the model; the user key unless given.
        shadow: a model that scores what others have answered, to be compared in /metrics.
        log_rows: folder of Parquet files with the rows of a share of the requests, for
            `polyrank monitor`; needs --log-column.
        log_column: a column to log, of the rows or of their predictions; no other one is.
        log_share: the share of the requests, .01 by default; a hash of the request's id decides.
        log_mb: all files together, in MiB, 1,024 by default; the oldest ones are removed.
        log_file_rows: rows of a file, 10,000 by default.
        log_file_seconds: that a row waits for its file at most, 60 by default.
    """
    from polyrank.errors import ConfigError
    from polyrank.serve.extra import require

    require(
        "msgspec", "onnxruntime", "prometheus_client", "starlette", "uvicorn", what="the server"
    )
    from polyrank.serve.app.limits import Limits
    from polyrank.serve.app.sampling import Sampling
    from polyrank.serve.app.sockets import listen
    from polyrank.serve.app.task import Served

    limits = Limits(
        body_mb=max_body_mb, rows=max_rows, timeout_s=timeout, queue=queue, drain_s=drain,
        total_mb=total_mb, connections=connections,
    )  # fmt: skip
    options = {
        "share": log_share, "most_mb": log_mb, "file_rows": log_file_rows,
        "file_s": log_file_seconds,
    }  # fmt: skip
    chosen: dict[str, Any] = {name: each for name, each in options.items() if each is not None}
    if log_rows is None and (chosen or log_column):
        raise ConfigError("the options of logged rows need their folder: give --log-rows FOLDER")
    sampling = None
    if log_rows is not None:
        sampling = Sampling(folder=str(log_rows), columns=log_column, **chosen)
    runs = (run, *more)
    served = Served(
        runs=runs, limits=limits, threads=threads, shares=share, by=split_by, shadows=shadow,
        watch=watch, sampling=sampling,
    )  # fmt: skip

    def started(address: str) -> None:
        print(f"serving {', '.join(runs)} at {address}", flush=True)

    if workers != 1:
        from polyrank.serve.app.processes import serve_by_several

        with listen(host, port) as listener:
            serve_by_several(served, workers, listener=listener, started=started)
        return
    from polyrank.serve.app.server import serve as run_server

    models, split = served.models()
    with listen(host, port) as listener:
        run_server(
            models, limits, listener=listener, started=started, split=split, watch=watch,
            sampling=sampling,
        )  # fmt: skip
