"""Serving takes neither torch nor numba."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl

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


def test_a_bundle_is_served_by_an_interpreter_without_them(exported, bundle, rows, tmp_path):
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    bundle.predict(rows).write_parquet(tmp_path / "expected.parquet")
    files = [str(tmp_path / name) for name in ("rows.parquet", "expected.parquet", "out.parquet")]
    script = [str(Path(__file__).with_name("without_torch.py")), str(exported), *files]
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
