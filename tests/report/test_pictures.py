"""Charts as files: what they are called, that they stand alone, and that they have a size."""

import re
from xml.etree import ElementTree

import pytest

from polyrank.errors import ConfigError, PolyrankError
from polyrank.report import write_charts
from polyrank.report.blocks import Figure
from polyrank.report.page import sections_of
from polyrank.report.pictures import SCALE, WIDTH

SVG = "{http://www.w3.org/2000/svg}svg"


@pytest.fixture(scope="module")
def folder(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts") / "deep"
    found = write_charts(full, folder)
    assert sorted(found) == sorted(folder.iterdir())
    return folder


def test_every_chart_of_the_page_has_two_files(folder, full):
    figures = (each for one in sections_of(full) for each in one.blocks)
    charts = sum(len(each.charts) for each in figures if isinstance(each, Figure))
    assert len(list(folder.glob("*.svg"))) == len(list(folder.glob("*.png"))) == charts > 15
    names = {path.stem for path in folder.iterdir()}
    assert {"ranking-roc", "calibration-click-all", "calibration-click-all-2"} <= names
    assert all(re.fullmatch(r"[\w-]{1,84}", name) for name in names)


def test_each_is_a_picture_that_needs_no_page(folder):
    for path in folder.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        tree = ElementTree.fromstring(text)
        assert tree.tag == SVG
        assert float(tree.get("width")) >= WIDTH * 0.9, path.name
        assert "currentColor" not in text
        assert "NaN" not in text
        assert re.search("<(path|rect|line)", text)
    for path in folder.glob("*.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20]) >= WIDTH * SCALE * 0.9


def test_where_they_cannot_be_written_it_says_so(full, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PolyrankError, match=r"the charts in .*file could not be written"):
        write_charts(full, tmp_path / "file")
    with pytest.raises(ConfigError, match="the folder of charts 's3://b/charts' is not on this"):
        write_charts(full, "s3://b/charts")
