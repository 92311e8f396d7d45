"""Each script in examples/ runs from top to bottom, in an empty folder, and says what it should."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
    assert names["scorecard"].scores
    assert names["predicted"].height
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_made_of_cells(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert text.count("# %% [markdown]") >= 3
    assert "\n# %%\n" in text
    assert f"python examples/{path.name}" in text
