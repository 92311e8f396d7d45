"""Paths of object stores, against a store on loopback: rows are read from it, nothing is written.

The store speaks what a reader needs of S3 (ranges, sizes, a listing), and with it plain HTTP.
"""

import gzip
import io
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.cli.app import run
from polyrank.data.read import Joined, files, read
from polyrank.errors import ConfigError, DataError
from polyrank.files import replacing, replacing_folder
from polyrank.paths import STORES, absolute, local, plain, store_of
from polyrank.serve.batch import Predictor, predict_file, predict_parts, predict_shard
from polyrank.serve.shards import Shard
from polyrank.train.sources import NOT_HERE

LISTED = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    '<ETag>"x"</ETag><Size>{}</Size></Contents>'
)


class Store(BaseHTTPRequestHandler):
    """Answers from `objects`: bytes by bucket/key."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        url = urlsplit(self.path)
        query, key = parse_qs(url.query), unquote(url.path).lstrip("/")
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            keys = {k.partition("/")[2]: len(each) for k, each in sorted(self.objects.items())}
            found = (LISTED.format(escape(k), v) for k, v in keys.items() if k.startswith(prefix))
            head = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>"
            self.send(200, f"{head}{''.join(found)}</ListBucketResult>".encode(), body)
        elif key.startswith("secret/"):
            self.send(403, b"<Error><Code>AccessDenied</Code></Error>", body)
        elif key not in self.objects:
            self.send(404, b"<Error><Code>NoSuchKey</Code></Error>", body)
        else:
            self.send_object(self.objects[key], body)

    def send_object(self, data, body):
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self.send(200, data, body)
            return
        first, last = asked.groups()
        low = int(first) if first else max(len(data) - int(last), 0)
        high = min(int(last) + 1, len(data)) if first and last else len(data)
        self.send(206, data[low:high], body, f"bytes {low}-{high - 1}/{len(data)}")

    def send(self, code, data, body, of=None):
        self.send_response(code)
        heads = {"Content-Length": str(len(data)), "ETag": '"x"', "Accept-Ranges": "bytes"}
        heads |= {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        for name, value in (heads | ({"Content-Range": of} if of else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(2)
    click = generator.integers(0, 2, 600)
    return pl.DataFrame(
        {
            "user": generator.integers(0, 30, 600),
            "item": generator.choice(["a", "b", "c"], 600),
            "price": generator.lognormal(size=600),
            "click": click,
        }
    )


@pytest.fixture(scope="module")
def address(log):
    def parquet(frame):
        held = io.BytesIO()
        frame.write_parquet(held)
        return held.getvalue()

    text = log.write_csv().encode()
    Store.objects = {
        "b/log/1.parquet": parquet(log.head(300)),
        "b/log/2.parquet": parquet(log.tail(300)),
        "b/log/all.csv": text,
        "b/log/all.csv.gz": gzip.compress(text),
        "b/log/twice.csv": b"item,item,click\n1,2,0\n",
        "b/log/train.parquet": parquet(log.head(400)),
        "b/log/valid.parquet": parquet(log.slice(400, 100)),
        "b/log/test.parquet": parquet(log.tail(100)),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def credentials(address, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "path",
    [
        "s3://b/log/[12].parquet",
        "s3://b/log/all.csv",
        "s3://b/log/all.csv.gz",
        "{address}/b/log/all.csv",
        "{address}/b/log/all.csv?signature=1%2F2",
    ],
)
def test_rows_of_a_store_are_those_of_files_here(log, address, path):
    assert read(path.format(address=address)).collect().equals(log)


def test_one_file_and_a_path_that_lost_a_slash(log, address):
    for path in ("s3://b/log/1.parquet", Path("s3://b/log/1.parquet")):
        assert read(path).collect().equals(log.head(300))
    found = read(f"{address}/b/log/1.parquet?signature=1").collect()
    assert found.equals(log.head(300))


def test_a_file_address_is_a_path_of_this_machine(log, tmp_path):
    log.write_parquet(tmp_path / "log.parquet")
    assert read(f"file://{tmp_path}/log.parquet").collect().equals(log)
    assert files(f"file://{tmp_path}/*.parquet") == [f"{tmp_path}/log.parquet"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://b/log/none.parquet", "the store has no 'log/none.parquet'"),
        ("s3://b/none/*.parquet", "no file of the store matches it"),
        ("s3://b/log/", r"'s3://b/log/' is a folder: name its files, such as 's3://b/log/\*"),
        ("s3://b/log.txt", "unknown extension '.txt'"),
        ("s3://b/log/twice.csv", "has the column 'item' twice, as its columns 1 and 2"),
        ("https://host/log/*.parquet", "a web server does not list its files; name one file"),
        ("ftp://host/log.csv", r"rows are not read from ftp:// \(known: s3://, .*gs://"),
    ],
)
def test_what_a_store_does_not_have_is_refused_by_name(path, message):
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_store_that_refuses_names_where_credentials_come_from(address):
    message = r"does not answer, or refuses: .*; credentials are read from AWS_ACCESS_KEY_ID"
    with pytest.raises(DataError, match=message):
        read("s3://secret/log/1.parquet")
    with pytest.raises(DataError, match="no credentials are sent: give a public or a signed"):
        read(f"{address}/secret/log/1.parquet")


EXPERIMENT = """
name = "far"
[data]
train = "s3://b/log/train.parquet"
valid = "s3://b/log/valid.parquet"
test = "s3://b/log/test.parquet"
[features]
sparse = ["user", "item"]
dense = ["price"]
[[task]]
name = "click"
[model]
embed_dim = 4
wide = false
trees = false
[train]
epochs = 1
"""


@pytest.fixture(scope="module")
def trained(address, tmp_path_factory):
    """Experiments on rows of the store, and on the same rows in files here."""
    assert address
    folder = tmp_path_factory.mktemp("far")
    (folder / "far.toml").write_text(EXPERIMENT)
    near = EXPERIMENT.replace("s3://b/log/", "").replace('"far"', '"near"')
    (folder / "near.toml").write_text(near)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.parquet").write_bytes(Store.objects[f"b/log/{split}.parquet"])
    return folder


@pytest.mark.slow
def test_every_verb_reads_rows_of_a_store(trained, monkeypatch, capsys, caplog):
    monkeypatch.chdir(trained)
    assert run(["check", "far.toml"]) == 0
    assert run(["train", "near.toml"]) == 0
    assert run(["train", "far.toml"]) == 0
    assert NOT_HERE in caplog.text
    assert 'test = "s3://b/log/test.parquet"' in (trained / "runs/far/config.toml").read_text()
    far, near = (pr.load(f"runs/{name}") for name in ("far", "near"))
    rows = pl.read_parquet("test.parquet")
    assert far.predict(rows).equals(near.predict(rows))
    capsys.readouterr()
    for verb in (
        ["evaluate", "runs/far", "s3://b/log/test.parquet"],
        ["predict", "runs/far", "s3://b/log/*.parquet", "--out", "scores.parquet"],
        ["compare", "runs/far", "runs/near", "--data", "s3://b/log/test.parquet"],
        ["monitor", "runs/far", "s3://b/log/test.parquet"],
        ["report", "runs/far"],
        ["init", "s3://b/log/all.csv", "--out", "made.toml", "--force"],
    ):
        code = run(verb)
        captured = capsys.readouterr()
        assert code in (0, 3), (verb, captured.err)
        assert "could not be read" not in captured.err, verb
    assert 'source = "s3://b/log/all.csv"' in (trained / "made.toml").read_text()
    assert pl.read_parquet("scores.parquet").height == 1200


def test_a_warm_start_knows_rows_of_a_store_by_what_they_hold():
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    options = {"epochs": 1, "valid": None}
    bundle = pr.fit(schema, pr.Model(embed_dim=4), train="s3://b/log/1.parquet", **options)
    with pytest.raises(DataError, match="were learned by the model before"):
        pr.fit(schema, pr.Model(embed_dim=4), train="s3://b/log/1.parquet", start=bundle, **options)
    again = pr.fit(
        schema, pr.Model(embed_dim=4), train="s3://b/log/2.parquet", start=bundle, **options
    )
    assert sum(each.rows for each in again.learned) == 600


def test_lists_that_rows_share_may_lie_in_a_store_too():
    joined = Joined("s3://b/log/1.parquet", pl.DataFrame({"user": [0], "seen": [[1]]}), "user")
    assert read(joined).collect().height == 300


def test_a_folder_of_parts_takes_no_rows_of_a_store(tmp_path, log):
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    bundle = pr.fit(schema, pr.Model(embed_dim=4), train=log, epochs=1)
    predictor = Predictor(schema, bundle.predict_frame)
    message = "would be downloaded for their checksum: copy them to this machine, or write one"
    with pytest.raises(DataError, match=message):
        predict_parts(predictor, "s3://b/log/1.parquet", tmp_path / "parts")
    with pytest.raises(DataError, match=message):
        predict_shard(predictor, "s3://b/log/1.parquet", tmp_path / "shards", Shard(1, 2))
    for out in ("s3://b/scores.parquet", Path("s3://b/scores.parquet")):
        with pytest.raises(ConfigError, match=r"the file of predictions 's3://b/scores\.parquet'"):
            predict_file(predictor, log, out)


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfss", "https", "ftp"])
def test_nothing_else_is_read_from_or_written_to_a_store(scheme, trained, monkeypatch, capsys, log):
    monkeypatch.chdir(trained)
    place = f"{scheme}://b/run"
    message = f"{place!r} is not on this machine"
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    given = place if scheme == "ftp" else Path(place)
    with pytest.raises(ConfigError, match=f"the run or bundle {message}.*copy it to this machine"):
        pr.load(given) if scheme != "ftp" else local(place, "the run or bundle", read=True)
    with pytest.raises(ConfigError, match=f"the run folder {message}.*write it to a local folder"):
        pr.fit(schema, pr.Model(), train=log, epochs=1, out=place)
    if scheme == "ftp":  # of which a `Path` keeps no sign
        return
    for written in (replacing, replacing_folder):
        with pytest.raises(ConfigError, match=message), written(Path(place)):
            pass
    for verb in (
        ["train", "near.toml", "--out", place],
        ["train", "near.toml", "--out", place, "--seeds", "2"],
        ["train", "near.toml", "--start", place],
        ["export", place],
        ["serve", place],
        ["init", "test.parquet", "--out", place],
        ["data", "make", "synthetic", "--rows", "1000", "--out", place],
        ["data", "get", "census", "--from", place],
    ):
        assert run(verb) == 1, verb
        assert "is not on this machine" in capsys.readouterr().err, verb
    assert not (trained / f"{scheme}:").exists()


def test_paths_of_this_machine_are_left_as_they_are():
    for path in ("log.csv", "/data/a b.csv", "C:/log.csv", "odd:name/x.csv", "a:/b"):
        assert store_of(path) is None
        assert plain(path) == path
    assert local("log.csv", "it") == Path("log.csv")
    assert absolute("log.csv") == str(Path.cwd() / "log.csv")
    assert absolute("/a/../log.csv", "/data") == "/a/../log.csv"
    assert absolute("S3://b/log.csv", "/data") == "s3://b/log.csv"
    assert all(store_of(f"{scheme}://b/x") == scheme for scheme in STORES)
