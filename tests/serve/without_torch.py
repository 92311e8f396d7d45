"""What serving does with a bundle, run by an interpreter that has neither torch nor numba.

    python without_torch.py BUNDLE ROWS.parquet EXPECTED.parquet OUT

`test_without_torch.py` runs it: in plain pytest with both imports blocked, in `make torchless` with
the interpreter of an environment that has none of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl

import polyrank as pr
from polyrank.cli.app import run
from polyrank.serve.app.routes import app

BLOCKED = ("torch", "numba")


def main(bundle: str, rows: str, expected: str, out: str) -> None:
    assert all(sys.modules.get(name) is None for name in BLOCKED)
    if "--blocked" not in sys.argv:
        assert all(find_spec(name) is None for name in BLOCKED)
    truth = pl.read_parquet(expected)
    engine, frame = pr.Engine(bundle), pl.read_parquet(rows)
    close(engine.predict(frame), truth)
    body = json.dumps({"rows": frame.to_dict(as_series=False)}).encode()
    close(pl.DataFrame(asyncio.run(over_http(app(engine), body))["outputs"]), truth)
    request = {"rows": frame.head(5).to_dict(as_series=False), "top_k": 2}
    request["explore"] = {"kind": "thompson", "seed": 3, "draws": 50}
    answer = asyncio.run(over_http(app(engine), json.dumps(request).encode()))
    assert [each["propensity"] > 0 for each in answer["top"]] == [True, True], answer
    code = run(["predict", bundle, rows, "-o", out, "--uncertainty"])
    assert code == 0, f"polyrank predict ended with {code}"
    close(pl.read_parquet(out).select(truth.columns), truth)
    with redirect_stderr(StringIO()) as said:
        assert run(["evaluate", bundle, rows]) == 1
    assert said.getvalue() == (
        "error: `polyrank evaluate` needs torch, which is not installed here: run `pip install "
        "polyrank`\n"
    )
    sys.stdout.write(f"{truth.height} rows, {Path(out).name}\n")


async def over_http(application, body: bytes) -> dict:
    """Return what the server's application answers to a request; its messages without a socket."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/score", "query_string": b""}
    await application({**scope, "root_path": "", "headers": []}, receive, send)
    start, *parts = sent
    answer = json.loads(b"".join(part["body"] for part in parts))
    assert start["status"] == 200, answer
    return answer


def close(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.columns == expected.columns
    for name in expected.columns:
        limit = 1e-5 if name.endswith("_sd") else 1e-6 if name.startswith("p_") else 1e-3
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit)


if __name__ == "__main__":
    main(*sys.argv[1:5])
