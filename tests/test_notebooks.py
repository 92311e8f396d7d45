"""The notebooks as they are kept: without outputs, in one form, and with cells that assert.

`make notebooks` executes them.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"\]\((?!https?://|#)(?P<path>[^)#\s]+)")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    table = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in table["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_a_notebook_is_kept_without_what_its_cells_answered(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == [], "python docs/notebooks.py --tidy"
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}


def test_a_notebook_is_written_in_one_form(path):
    """So that a difference is one of the text: an editor's own keys and spaces are none."""
    text = path.read_text(encoding="utf-8")
    table = json.loads(text)
    form = json.dumps(table, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert text == form, "python docs/notebooks.py --tidy"
    assert set(table["metadata"]) == {"kernelspec", "language_info"}
    assert table["metadata"]["language_info"] == {"name": "python"}
    names = [cell["id"] for cell in table["cells"]]
    assert len(set(names)) == len(names)


def test_a_notebook_is_short_and_asserts_what_it_claims(path):
    table = json.loads(path.read_text(encoding="utf-8"))
    assert 15 <= len(table["cells"]) <= 30
    trees = [ast.parse(source(cell)) for cell in cells(path, "code")]
    asserted = [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Assert)]
    assert len(asserted) >= 3
    assert not [source(cell) for cell in cells(path, "code") if len(source(cell)) > 1700]


def test_a_notebook_names_no_path_of_a_machine(path):
    assert not re.search(r"(?<![\w.])/(home|Users|root|tmp|work|mnt|opt)/", path.read_text("utf-8"))


def test_links_of_a_notebook_lead_somewhere(path):
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    paths = [found["path"] for found in LINK.finditer(text)]
    assert [each for each in paths if not (path.parent / each).exists()] == []


def test_the_site_says_what_a_notebook_shows(path):
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert f"## {source(cells(path, 'markdown')[0]).splitlines()[0].removeprefix('# ')}\n" in page
    assert f'href="notebooks/{path.stem}.html"' in page
