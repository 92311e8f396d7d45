"""Execute the notebooks and write each as a page, with what its cells answered.

A cell that fails ends this. Writes docs/notebooks/NAME.html, for the site and not for git.
The pages load nothing from elsewhere. Needs the extra [notebooks].

    python docs/notebooks.py [NAME …]
    python docs/notebooks.py --tidy  # write each as it is kept, after an editor has saved it
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "notebooks"
CELL_SECONDS = 600  # of a machine that does much else
# The usual page without its scripts, all of which are of other hosts.
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
"""


def tidy(path: Path) -> None:
    """Write a notebook without what its cells answered and what an editor says of itself."""
    notebook = nbformat.read(path, as_version=4)
    spec = notebook.metadata.kernelspec
    notebook.metadata = {"kernelspec": spec, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)


def main(names: list[str]) -> None:
    """Execute the named notebooks, or all, each in a folder of its own."""
    known = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    if names == ["--tidy"]:
        for path in known.values():
            tidy(path)
        return
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"docs/notebooks.py: no notebook {unknown[0]!r} (known: {', '.join(known)})")
    PAGES.mkdir(exist_ok=True)
    exporter = HTMLExporter(raw_template=TEMPLATE)
    for name in names or known:
        notebook = nbformat.read(known[name], as_version=4)
        with TemporaryDirectory() as folder:
            where = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=CELL_SECONDS, resources=where).execute()
        page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name}})
        (PAGES / f"{name}.html").write_text(page, encoding="utf-8")
        sys.stdout.write(f"{name}: every cell ran\n")


if __name__ == "__main__":
    main(sys.argv[1:])
