"""Serving takes neither torch nor numba."""

import json
import os
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path

import polars as pl

from polyrank.cli.app import run

ROOT = Path(__file__).parents[2]
# The interpreter of an environment without torch and numba (make torchless), else this one.
INTERPRETER = os.environ.get("POLYRANK_WITHOUT_TORCH")
BLOCK = """
import runpy, sys
for name in ("torch", "numba"):
    sys.modules[name] = None  # an import of it is an ImportError
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_bundle_is_served_by_an_interpreter_without_them(sure, bundle, rows, tmp_path):
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    expected = bundle.predict(rows, uncertainty=["click", "buy"])
    expected.write_parquet(tmp_path / "expected.parquet")
    files = [str(tmp_path / name) for name in ("rows.parquet", "expected.parquet", "out.parquet")]
    script = [str(Path(__file__).with_name("without_torch.py")), str(sure), *files]
    command = (
        [INTERPRETER, *script]
        if INTERPRETER
        else [sys.executable, "-c", BLOCK, *script, "--blocked"]
    )
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "400 rows, out.parquet" in answer.stdout


def test_the_requirements_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["serve"]}
    lines = (ROOT / "serve-requirements.txt").read_text(encoding="utf-8").splitlines()
    found = {line.replace('"', "'") for line in lines if not line.startswith("#")}
    left_out = {
        each for each in wanted if each.split(">")[0] in ("torch", "numba", "onnx", "onnxscript")
    }
    assert len(left_out) == 4
    assert found == {each.replace('"', "'") for each in wanted - left_out}


def test_the_image_serves_at_every_address_whatever_is_asked_of_it(monkeypatch, tmp_path):
    """Options behind the folder replace the Dockerfile's CMD, and not the host."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    entry, default = (
        json.loads(line.removeprefix(word))
        for word in ("ENTRYPOINT ", "CMD ")
        for line in lines
        if line.startswith(word)
    )
    assert entry[0] == "polyrank"
    served = []
    monkeypatch.setattr("polyrank.serve.app.sockets.listen", lambda host, _: nullcontext(host))
    monkeypatch.setattr(
        "polyrank.serve.app.server.serve",
        lambda run, _, **more: served.append((run, more["listener"])),
    )
    monkeypatch.setattr("polyrank.serve.app.task.Served.models", lambda told: (told.runs[0], None))
    assert run([*entry[1:], *default]) == run([*entry[1:], str(tmp_path), "--threads", "2"]) == 0
    assert served == [(default[0], "0.0.0.0"), (str(tmp_path), "0.0.0.0")]
