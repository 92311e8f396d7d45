"""An exported bundle with every kind of column, and the rows that it learned from."""

import json
import logging
import shutil
import socket
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from threading import Thread

import numpy as np
import polars as pl
import pytest
import uvicorn

import polyrank as pr
from polyrank.files import replacing_folder
from polyrank.serve.app.limits import Limits
from polyrank.serve.app.log import JsonLines
from polyrank.serve.app.routes import app
from polyrank.serve.app.server import configured
from polyrank.serve.app.sockets import listen
from polyrank.serve.export.write import export

PATIENCE_S = 60  # of a socket, so that a server that does not answer fails a test and hangs none

# A script of another environment's Python, which has a client of its own.
collect_ignore = ["oip_client.py"]


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """Take away what a server that ran in this process logs to: a stream that is closed by then."""
    root, own = logging.getLogger(), logging.getLogger("polyrank")
    levels = root.level, own.level
    yield
    for handler in [each for each in root.handlers if isinstance(each.formatter, JsonLines)]:
        root.removeHandler(handler)
    root.setLevel(levels[0])
    own.setLevel(levels[1])


class Answer:
    """A whole answer of HTTP."""

    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Speaks to one port, a connection a request unless it is given one."""

    def __init__(self, port):
        self.port = port

    def connection(self):
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, method, path, body=None, headers=(), *, connection=None):
        mine = connection or self.connection()
        try:
            mine.request(method, path, body, dict(headers))
            return Answer(mine.getresponse())
        finally:
            if connection is None:
                mine.close()

    def get(self, path):
        return self.ask("GET", path)

    def score(self, body, headers=(), *, connection=None):
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", "/v1/score", sent, headers, connection=connection)

    def score_parts(self, parts, headers):
        """Send a body part by part; without a Content-Length it is chunked."""
        return self.ask("POST", "/v1/score", parts, headers)

    def socket(self):
        """A bare connection, for what no client library would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


@contextmanager
def served(engine, limits=None, state=None, split=None, sampling=None):
    """Serve in a thread of this process."""
    listener, limits = listen("127.0.0.1", 0), limits or Limits()
    application = app(engine, limits, state, split, sampling)
    server = uvicorn.Server(configured(application, limits))
    thread = Thread(target=server.run, args=([listener],))
    port = listener.getsockname()[1]  # a connection is taken from now on, and answered once it runs
    thread.start()
    try:
        yield Client(port)
    finally:
        server.should_exit = True
        thread.join()
        if application.state.service.sampler is not None:
            application.state.service.sampler.close()


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(5)
    size = 400
    click = generator.integers(0, 2, size)
    buy = click * generator.integers(0, 2, size)
    lengths = generator.integers(0, 5, size)
    return {
        "user": (generator.integers(-5, 40, size) * 10**12).tolist(),
        "city": generator.choice(["Zürich", "北京", "a/b", "", None], size).tolist(),
        "slot": generator.integers(0, 4, size).tolist(),
        "url": [f"/{n}" for n in generator.integers(0, 300, size)],
        "seen": [generator.choice(["Zürich", "a/b", "x"], length).tolist() for length in lengths],
        "age": [None if n < 20 else n for n in generator.integers(15, 80, size).tolist()],
        "price": generator.lognormal(size=size).tolist(),
        "margin": generator.normal(size=size).tolist(),
        "click": click.tolist(),
        "buy": buy.tolist(),
        "spend": np.where(buy == 1, generator.normal(300, 5, size), np.nan).tolist(),
    }


@pytest.fixture(scope="session")
def bundle(rows):
    schema = pr.Schema(
        [
            pr.SparseFeature("user", min_count=2),
            pr.SparseFeature("city"),
            pr.SparseFeature("slot", vocab_size=4),
            pr.SparseFeature("url", hash=50),
            pr.SequenceFeature("seen", shared_with="city"),
            pr.DenseFeature("age", bins=5),
            pr.DenseFeature("price", encoding="log"),
        ],
        [
            pr.Task("click"),
            pr.Task("buy", given="click"),
            pr.Task("spend", kind="regression", given="buy"),
        ],
        pr.Keys(user="user"),
    )
    model = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), tower=[4], embed_dim=4)
    fusion = pr.Fusion({"click": 1.0, "buy": 2.0, "margin": 0.1})
    fitted = pr.fit(schema, model, train=rows, valid=rows, epochs=2, seed=1, fusion=fusion)
    # The labels are noise, so validation rows may leave the network out of a head.
    fitted.ranker.first.share.fill_(0.75)
    return fitted


@pytest.fixture(scope="session")
def exported(bundle, rows, tmp_path_factory):
    """The folder of the bundle, with model.onnx; not to be changed."""
    folder = tmp_path_factory.mktemp("served") / "bundle"
    bundle.save(folder)
    names = [feature.name for feature in bundle.schema.features]
    export(bundle, folder, [pl.DataFrame({name: rows[name] for name in names})])
    return folder


@pytest.fixture(scope="session")
def sure(bundle, rows, tmp_path_factory):
    """The folder of the same bundle, exported with deviations; not to be changed."""
    folder = tmp_path_factory.mktemp("sure") / "bundle"
    bundle.save(folder)
    names = [feature.name for feature in bundle.schema.features]
    chunks = [pl.DataFrame({name: rows[name] for name in names})]
    export(bundle, folder, chunks, uncertainty=["click", "buy"])
    return folder


@pytest.fixture(scope="session")
def later(bundle, rows, tmp_path_factory):
    """The folder of another bundle of the same columns, as of the day after."""
    folder = tmp_path_factory.mktemp("later") / "bundle"
    fewer = {name: values[:300] for name, values in rows.items()}  # other vocabularies too
    model, fusion = pr.Model(tower=[4], embed_dim=4), pr.Fusion({"click": 1.0, "margin": 0.1})
    fitted = pr.fit(bundle.schema, model, train=fewer, epochs=1, seed=2, fusion=fusion)
    fitted.save(folder)
    names = [feature.name for feature in bundle.schema.features]
    export(fitted, folder, [pl.DataFrame({name: rows[name] for name in names})])
    return folder


@pytest.fixture
def run_folder(exported, tmp_path):
    """A run folder whose bundle a test may replace, and the function that does so at once."""

    def replace(bundle):
        with replacing_folder(tmp_path / "run" / "bundle") as new:
            shutil.copytree(bundle, new, dirs_exist_ok=True)
        return tmp_path / "run"

    replace(exported)
    return replace


@pytest.fixture(scope="session")
def engine(exported):
    return pr.Engine(exported)


@pytest.fixture
def client():
    """A function from a port to what speaks to it."""
    return Client


@pytest.fixture
def serving():
    """Serve an engine on a free port of loopback: a function from what `app` takes to a Client."""
    with ExitStack() as stack:
        yield lambda *given: stack.enter_context(served(*given))
