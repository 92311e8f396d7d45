"""The README and the docs run: their Python blocks in order, one namespace a page.

A ```text block right after a ```python block is what that block prints, to the letter. A block
under `<!-- no-run -->` is left alone. Links between pages lead somewhere.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(
    r"(?P<skip><!-- no-run -->\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$\n*(?:^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?://|#)(?P<path>[^)#\s]+)(?:#[^)\s]*)?\)")


def blocks(page, language):
    """Yield (first line's number, body, what it prints or None) of each block that runs."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["language"] == language and not found["skip"]:
            yield text.count("\n", 0, found.start("body")), found["body"], found["printed"]


def named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.mark.parametrize("page", named(page for page in PAGES if any(blocks(page, "python"))))
def test_the_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, body, printed in blocks(page, "python"):
        # the empty lines make a traceback name the line of the page
        exec(compile("\n" * line + body, str(page), "exec"), namespace)
        shown = capsys.readouterr().out
        if printed is not None:
            assert shown.rstrip() == printed.rstrip(), f"{page}:{line} prints something else"


@pytest.mark.parametrize("page", named(page for page in PAGES if any(blocks(page, "toml"))))
def test_the_toml_blocks_are_read(page):
    for _, body, _ in blocks(page, "toml"):
        tomllib.loads(body)


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    lost = [link["path"] for link in LINK.finditer(text) if not (page.parent / link["path"]).exists()]
    assert lost == []


def test_the_navigation_names_every_page():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")]
    assert sorted(listed) == sorted(pages)


def test_the_readme_has_two_set_up_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    set_up = text.split("<!-- set-up:begin -->")[1].split("<!-- set-up:end -->")[0]
    commands = [line for line in set_up.splitlines() if line and not line.startswith("```")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/polyrank demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ]
