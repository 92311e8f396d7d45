"""The page in a real browser: every chart drawn, a silent console, no sideways scroll."""

import re
import shutil
import subprocess
from html import unescape

import pytest

from polyrank.report import gather, write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
]
WIDTHS = [1280, 380]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=20000",
]  # fmt: skip
CONSOLE = re.compile(r"^.*:CONSOLE.*$", re.MULTILINE)
# A window has a least width, and a frame has none: the page is laid out in a frame, which hands
# what became of it to the window.
FRAME = """<!doctype html><meta charset="utf-8"><title>waiting</title>
<iframe src="measured.html" width="{width}" height="2000" style="border:0"></iframe><pre></pre>
<script>addEventListener("message", function (event) {{
  document.title = event.data.width; document.querySelector("pre").textContent = event.data.html;
}});</script>"""
SEND = """<script>(function wait() {
  var root = document.documentElement;
  if (!root.dataset.charts) { setTimeout(wait, 100); return; }
  parent.postMessage({ width: root.scrollWidth, html: root.outerHTML }, "*");
})();</script></body>"""


@pytest.fixture(scope="module")
def opened(full, tmp_path_factory):
    """The document as rendered at two widths: its HTML, its width, what the console said."""
    folder = tmp_path_factory.mktemp("page")
    path = write(full, folder / "report.html")
    return {width: browse(path, width) for width in WIDTHS}


def browse(path, width):
    text, _, end = path.read_text(encoding="utf-8").rpartition("</body>")
    path.with_name("measured.html").write_text(text + SEND + end, encoding="utf-8")
    frame = path.with_name("frame.html")
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    answer = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={path.parent / f'profile-{width}'}",
         "--window-size=1400,2100", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", answer.stdout)[1]
    assert title != "waiting", f"the charts were never drawn: {CONSOLE.findall(answer.stderr)}"
    document = unescape(answer.stdout.split("<pre>")[1].split("</pre>")[0])
    return document, int(title), CONSOLE.findall(answer.stderr)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_said_in_the_console(opened, width):
    assert opened[width][2] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_drawn_with_marks(opened, width):
    document = opened[width][0]
    assert 'data-charts="drawn"' in document
    places = document.split('<div class="chart')[1:]
    assert len(places) > 15
    for number, place in enumerate(places):
        drawn = place.split('<script type="application/json">')[0]
        assert "<svg" in drawn, number
        marks = re.findall(r'class="mark-(line|symbol|rect|area|rule) role-mark', drawn)
        assert marks, number
        assert "NaN" not in drawn, number


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(opened, width):
    assert opened[width][1] <= width


def test_a_page_without_rows_is_drawn_too(bundle, tmp_path):
    document, width, console = browse(write(gather(bundle), tmp_path / "report.html"), 380)
    assert console == []
    assert 'data-charts="drawn"' in document
    assert width <= 380
