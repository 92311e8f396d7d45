"""Lists with weights and a longest length: trained, saved, exported, requested, streamed."""

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.config import Experiment
from polyrank.data import stream
from polyrank.errors import DataError
from polyrank.serve.app.routes import request_schema
from polyrank.serve.engine import Engine, Session
from polyrank.serve.export.write import RAW_FILE, export
from polyrank.serve.inputs import Inputs

SCHEMA = pr.Schema(
    [
        pr.SparseFeature("item"),
        pr.SequenceFeature("seen", shared_with="item", weights="times", max_length=3),
        pr.SequenceFeature("brands", pooling="sum", weights="spent", padding_idx=0),
        pr.SequenceFeature("tags", pooling="last", weights="ages", embed_dim=4),
        pr.SequenceFeature("plain", shared_with="item", max_length=2),
    ],
    [pr.Task("click")],
)
LISTS = {"seen": "times", "brands": "spent", "tags": "ages", "plain": None}


def drawn(rows, seed=0):
    generator = np.random.default_rng(seed)
    found = {"item": generator.integers(0, 20, rows).tolist()}
    for name, weights in LISTS.items():
        lengths = generator.integers(0, 6, rows)
        found[name] = [generator.integers(0, 20, n).tolist() for n in lengths]
        if weights:
            found[weights] = [generator.normal(0.5, 1, n).round(3).tolist() for n in lengths]
    found["seen"][0] = found["times"][0] = None
    found["click"] = (generator.random(rows) < 0.3).astype(int).tolist()
    return found


LOG = drawn(300)


@pytest.fixture(scope="module")
def bundle():
    return pr.fit(SCHEMA, pr.Model(embed_dim=8), train=LOG, valid=LOG, epochs=1, seed=1)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    found = tmp_path_factory.mktemp("weighted") / "bundle"
    bundle.save(found)
    export(bundle, found, [pl.DataFrame(drawn(40, 1))], vocabulary=True)
    return found


def test_a_saved_bundle_gives_the_same_bits(bundle, folder):
    assert pr.load(folder).predict(LOG).equals(bundle.predict(LOG))


def test_weights_and_the_ids_that_are_left_out_matter_as_they_should(bundle):
    before = bundle.predict(LOG)["p_click"]
    other = {**LOG, "spent": [[2 * w for w in row] for row in LOG["spent"]]}
    assert (bundle.predict(other)["p_click"] - before).abs().max() > 1e-6
    # a mean is one of shares, so what multiplies all of a list's weights is nothing to it
    other = {**LOG, "times": [row and [2 * w for w in row] for row in LOG["times"]]}
    assert (bundle.predict(other)["p_click"] - before).abs().max() < 1e-6
    longer = {
        **LOG,
        "plain": [[19] * 3 + row if len(row) > 1 else row for row in LOG["plain"]],
        "brands": [[0, *row] for row in LOG["brands"]],
        "spent": [[99.0, *row] for row in LOG["spent"]],
    }
    assert bundle.predict(longer)["p_click"].equals(before)


@pytest.mark.parametrize("rows", [1, 30, 2000])
def test_the_engine_answers_as_the_bundle_does(bundle, folder, rows):
    engine, log = Engine(folder), drawn(rows, 2)
    expected = bundle.predict(log)["p_click"]
    for given in (log, pl.DataFrame(log)):
        assert (engine.predict(given)["p_click"] - expected).abs().max() < 1e-6


def test_both_files_take_the_weights_and_cut_long_lists(bundle, folder):
    frame = pl.DataFrame(drawn(30, 3))
    expected = bundle.predict(frame)["p_click"].to_numpy()
    session = Session(folder / RAW_FILE)
    assert session.inputs == SCHEMA.inputs
    long = pr.Schema(
        [
            pr.SparseFeature("item"),
            pr.SequenceFeature("seen", shared_with="item", weights="times"),
            *SCHEMA.features[2:4], pr.SequenceFeature("plain", shared_with="item"),
        ],
        [pr.Task("click")],
    )  # fmt: skip
    raw = Inputs(long, bundle.vocab)
    raw.codecs.update({each.name: each.codec(bundle.vocab.tables, None) for each in long.features})
    (feeds,) = raw.raw(frame).batches(100)
    assert feeds["seen"].shape == feeds["times"].shape
    assert feeds["seen"].shape[1] > 3  # longer than max_length: the graph leaves the rest out
    uncut = session.run(feeds)["p_click"]
    three = [row if row is None or len(row) <= 3 else None for row in frame["seen"].to_list()]
    same = np.array([row is not None for row in three])
    np.testing.assert_allclose(uncut[same], expected[same], atol=1e-6)


def test_a_shared_list_may_have_weights_of_each_row(folder):
    engine = Engine(folder)
    row = {name: values[5] for name, values in drawn(9, 4).items() if name != "click"}
    columns = {name: [value] * 3 for name, value in row.items()}
    expected = engine.predict_columns(columns).outputs["p_click"]
    beside = {name: columns.pop(name) for name in ("seen", "brands", "spent")}
    shared = {name: values[0] for name, values in beside.items()}
    found = engine.predict_columns(columns, shared).outputs["p_click"]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_request_without_its_weights_or_with_too_few_is_refused(folder):
    engine, log = Engine(folder), drawn(3, 5)
    with pytest.raises(DataError, match="column 'spent' is not in the data"):
        engine.predict({name: each for name, each in log.items() if name != "spent"})
    with pytest.raises(DataError, match="'spent' of sequence feature 'brands' must have one numb"):
        engine.predict_columns({**log, "spent": [[1.0] * 9] * 3})
    with pytest.raises(DataError, match="'spent' of sequence feature 'brands' must be a column of"):
        engine.predict_columns({**log, "brands": [[1]] * 3, "spent": [["much"]] * 3})
    columns = request_schema(engine)["oneOf"][0]["properties"]["rows"]["oneOf"]
    assert "'spent'" in str(columns)


def test_a_stream_encodes_the_same_lists(monkeypatch, tmp_path):
    pl.DataFrame(LOG).write_parquet(tmp_path / "log.parquet")
    text = """
        [data]
        train = "log.parquet"
        valid = "log.parquet"
        memory = "MEMORY"
        [features]
        sparse = ["item"]
        sequence = ["seen", "brands"]
        [features.seen]
        shared_with = "item"
        weights = "times"
        max_length = 3
        [features.brands]
        weights = "spent"
        [[task]]
        name = "click"
        [train]
        epochs = 1
    """
    monkeypatch.setattr(stream, "LEAST_CHUNK_ROWS", 64)
    predicted = []
    for memory in ("1GiB", "8MiB"):
        if memory == "8MiB":
            monkeypatch.setattr(stream, "row_bytes", lambda _: 1 << 20)
        experiment = Experiment.from_text(text.replace("MEMORY", memory), folder=tmp_path)
        assert Experiment.from_text(experiment.to_toml()) == experiment
        fitted = experiment.fit(out=tmp_path / memory)
        predicted.append(fitted.vocab.tables["item"].to_frame())
        assert fitted.predict(LOG).height == 300
    assert predicted[0].equals(predicted[1])
