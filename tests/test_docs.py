"""The README and the docs run: each page from top to bottom, in an empty folder.

- A `python` block is executed, in one namespace per page; with a `title` it is a module that later
  blocks import. A `text` block right after a block is its output, to the letter.
- A `toml` block is read as an experiment, or as part of one; with a `title` it is also a file.
- In a `console` block, the lines that call polyrank are run.
- A translation has its original's blocks, to the letter, and its headings' levels; it is not run.
- A block under `<!-- no-run -->` is skipped. Links between pages lead somewhere.
"""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.config import Experiment
from polyrank.registry import unregister

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
TRANSLATED = {
    "README.zh-CN.md": "README.md",
    "docs/zh/quickstart.md": "docs/index.md",
    "docs/zh/notebooks.md": "docs/notebooks.md",
    "docs/zh/tutorial.md": "docs/tutorial.md",
    "docs/zh/nouns/feature.md": "docs/nouns/feature.md",
    "docs/zh/nouns/task.md": "docs/nouns/task.md",
    "docs/zh/nouns/schema.md": "docs/nouns/schema.md",
    "docs/zh/nouns/model.md": "docs/nouns/model.md",
    "docs/zh/nouns/table-and-batch.md": "docs/nouns/table-and-batch.md",
    "docs/zh/nouns/ranker.md": "docs/nouns/ranker.md",
    "docs/zh/nouns/trainer.md": "docs/nouns/trainer.md",
    "docs/zh/nouns/bundle.md": "docs/nouns/bundle.md",
    "docs/zh/nouns/scorecard.md": "docs/nouns/scorecard.md",
    "docs/zh/objective.md": "docs/objective.md",
    "docs/zh/debias.md": "docs/debias.md",
    "docs/zh/late_conversions.md": "docs/late_conversions.md",
    "docs/zh/labels.md": "docs/labels.md",
    "docs/zh/exploration.md": "docs/exploration.md",
    "docs/zh/position.md": "docs/position.md",
    "docs/zh/watch_time.md": "docs/watch_time.md",
    "docs/zh/trunks.md": "docs/trunks.md",
    "docs/zh/monitoring.md": "docs/monitoring.md",
    "docs/zh/wide.md": "docs/wide.md",
    "docs/zh/uncertainty.md": "docs/uncertainty.md",
    "docs/zh/tune.md": "docs/tune.md",
    "docs/zh/track.md": "docs/track.md",
    "docs/zh/warm_start.md": "docs/warm_start.md",
    "docs/zh/audit.md": "docs/audit.md",
    "docs/zh/init.md": "docs/init.md",
    "docs/zh/calibration.md": "docs/calibration.md",
    "docs/zh/report.md": "docs/report.md",
    "docs/zh/compare.md": "docs/compare.md",
    "docs/zh/deploy.md": "docs/deploy.md",
    "docs/zh/recipes.md": "docs/recipes.md",
    "docs/zh/choosing.md": "docs/choosing.md",
    "docs/zh/faults.md": "docs/faults.md",
    "docs/zh/glossary.md": "docs/glossary.md",
    "docs/zh/evidence.md": "docs/evidence.md",
    "docs/zh/sampling.md": "docs/sampling.md",
    "docs/zh/migration.md": "docs/migration.md",
    "docs/zh/datasets.md": "docs/datasets.md",
    "docs/zh/scale.md": "docs/scale.md",
    "docs/zh/plugins.md": "docs/plugins.md",
    "docs/zh/releasing.md": "docs/releasing.md",
}
FENCE = re.compile(
    r"(?P<skip><!-- no-run -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$'
    r"\n*(?:^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ polyrank (?P<arguments>.*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)(?P<path>[^)#\s]+)(?:#[^)\s]*)?\)")
ANCHOR = re.compile(r"\]\((?!https?://)(?P<path>[^)#\s]*)#(?P<anchor>[^)\s]+)\)")
# Completes a block that shows only part of an experiment.
REST = {
    "data": {"train": "train.parquet"},
    "features": {"sparse": ["item_id"]},
    "task": [{"name": "click"}],
}


# A translation has its original's blocks to the letter, so running the original is enough.
ORIGINALS = [page for page in PAGES if str(page.relative_to(ROOT)) not in TRANSLATED]


@pytest.fixture
def plugin():
    """What a page's plugin has registered is taken back, also where a block fails."""
    yield
    module = sys.modules.pop("my_plugin", None)
    for axis, name in module.NAMES if module else ():
        unregister(axis, name)


def named(page):
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", ORIGINALS, ids=named)
@pytest.mark.usefixtures("plugin")
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start("body"))
        if block["skip"]:
            continue
        if block["title"]:
            Path(block["title"]).write_text(block["body"], encoding="utf-8")
        if block["language"] == "python" and not block["title"]:
            # the empty lines make a traceback name the line of the page
            exec(compile("\n" * line + block["body"], str(page), "exec"), namespace)
        elif block["language"] == "toml":
            Experiment.from_table(REST | tomllib.loads(block["body"]))
        elif block["language"] == "console":
            for command in COMMAND.finditer(block["body"]):
                arguments = shlex.split(command["arguments"], comments=True)
                assert run(arguments) == 0, f"{page}:{line} {arguments}: {capsys.readouterr().err}"
        shown = capsys.readouterr().out
        if block["printed"] is not None:
            assert shown.rstrip() == block["printed"].rstrip(), f"{page}:{line} differs"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    paths = [found["path"] for found in LINK.finditer(text)]
    assert [path for path in paths if not (page.parent / path).exists()] == []


def anchors(page):
    """Return the places of a page that a link may name, on GitHub and on the site alike."""
    text = ANY_FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain)))
    # The site makes one hyphen of several, and leaves letters out that are not ASCII.
    return {each for each in found if "--" not in each and each.isascii()}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_into_a_page_name_a_place_there(page):
    text = ANY_FENCE.sub("", page.read_text(encoding="utf-8"))
    links = [(page.parent / each["path"], each["anchor"]) for each in ANCHOR.finditer(text)]
    links = [(page if path == page.parent else path, anchor) for path, anchor in links]
    known = {path: anchors(path) for path, _ in links if path.suffix == ".md"}
    assert [link for link in links if link[0] in known and link[1] not in known[link[0]]] == []


def test_every_translation_is_listed():
    pages = {str(path.relative_to(ROOT)) for path in PAGES}
    assert {page for page in pages if "zh" in page} == set(TRANSLATED)


@pytest.mark.parametrize(("translation", "original"), TRANSLATED.items())
def test_a_translation_keeps_the_structure_of_its_original(translation, original):
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in (translation, original)]
    ours, theirs = ([block[0] for block in ANY_FENCE.finditer(text)] for text in texts)
    assert ours == theirs
    ours, theirs = (re.findall(r"^#+ ", ANY_FENCE.sub("", text), re.MULTILINE) for text in texts)
    assert ours == theirs


def test_the_readmes_lead_to_each_other():
    for page, other in (("README.md", "README.zh-CN.md"), ("README.zh-CN.md", "README.md")):
        assert f"]({other})" in (ROOT / page).read_text(encoding="utf-8")


def test_the_navigation_names_every_page():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")]
    assert sorted(listed) == sorted(pages)


def test_the_reference_has_every_public_name_once():
    pages = [path.read_text(encoding="utf-8") for path in ROOT.glob("docs/reference/*.md")]
    named = re.findall(r"^::: polyrank\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(named) == sorted(set(pr.__all__) - {"__version__"})


def test_the_readme_has_two_set_up_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    set_up = text.split("<!-- set-up:begin -->")[1].split("<!-- set-up:end -->")[0]
    commands = [line for line in set_up.splitlines() if line and not line.startswith("```")]
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/polyrank demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ]
