"""The engine predicts as the bundle does, without torch."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyrank as pr
from polyrank.bundle.format import MANIFEST
from polyrank.serve.engine import Session
from polyrank.serve.export.write import export
from polyrank.serve.inputs import ROWS_FILE

PROBABILITY, SPEND = 1e-6, 1e-5 * 60
CELLS = 524_288  # of the lists of a batch, padded to the longest


def close(found, expected):
    assert found.columns == expected.columns
    for name in expected.columns:
        limit = PROBABILITY if name.startswith("p_") else SPEND
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit)


def summed(found, expected):
    """Close for float32 means of 100,000 effects, which are summed in two orders."""
    for name in expected.columns:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3)


def features(engine, rows):
    return {name: rows[name] for name in engine.inputs}


def test_it_answers_as_the_bundle_does(engine, bundle, rows):
    close(engine.predict(rows), bundle.predict(rows))


@pytest.mark.parametrize(
    "form",
    [
        pl.DataFrame,
        lambda rows: pl.DataFrame(rows).lazy(),
        lambda rows: pl.DataFrame(rows).to_arrow(),
        pd.DataFrame,
        lambda rows: {name: np.array(each, dtype=object) for name, each in rows.items()},
    ],
    ids=["polars", "lazy", "arrow", "pandas", "arrays"],
)
def test_every_form_of_rows_has_the_same_answer(form, engine, bundle, rows):
    some = {name: each[:40] for name, each in features(engine, rows).items()}
    given = form(some)
    ours, theirs = engine.predict(given), bundle.predict(given)
    if not isinstance(given, dict | pl.LazyFrame):
        assert type(ours) is type(theirs) is type(given)
    close(pl.DataFrame(ours), pl.DataFrame(theirs))


def test_short_arrays_of_numbers_are_lists(engine, bundle, rows):
    some = {name: each[:7] for name, each in features(engine, rows).items()}
    typed = some | {
        "user": np.array(some["user"]), "slot": np.array(some["slot"], dtype=np.uint64),
        "age": np.array([np.nan if each is None else each for each in some["age"]]),
        "price": np.array(some["price"], dtype=np.float32),
    }  # fmt: skip
    typed["slot"][0] = 2**64 - 1  # no int64, and no row of the table
    close(engine.predict(typed), bundle.predict(typed))


def test_a_number_with_several_encodings(tmp_path):
    generator = np.random.default_rng(1)
    prices = generator.integers(-3, 8, 200) / 2
    click = (prices + generator.normal(size=200) > 1).astype(int)
    log = {"price": np.where(prices < -1, np.nan, prices), "click": click}
    kinds = ["piecewise_linear", "bins", "values"]
    schema = pr.Schema(
        [pr.DenseFeature("price", encoding=kinds, bins=4, min_count=15)], [pr.Task("click")]
    )
    bundle = pr.fit(schema, pr.Model(tower=[16]), train=log, epochs=2, lr=0.03, batch_size=32)
    assert bundle.encode(log).columns().keys() == {"price", "price#bins", "price#values"}
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [pl.DataFrame(log)], vocabulary=True)
    loaded, engine = pr.load(tmp_path / "bundle"), pr.Engine(tmp_path / "bundle")
    assert loaded.schema == bundle.schema
    assert loaded.vocab.states == bundle.vocab.states
    rows = {"price": [-0.0, 0.0, 0.5, 0.75, 3.5, 1e9, -1e9, None]}
    expected = bundle.predict(rows)
    assert expected["p_click"][0] == expected["p_click"][1]
    assert expected["p_click"].n_unique() > 4
    assert loaded.predict(rows).equals(expected)
    close(engine.predict(pl.DataFrame(rows)), expected)
    found = engine.predict_columns(rows)
    close(pl.DataFrame(dict(found.outputs)), expected)
    assert found.nulls == {"price": 1}


def test_columns_may_be_named_by_numbers(tmp_path):
    schema = pr.Schema([pr.SparseFeature("101")], [pr.Task("click")])
    rows = {101: [1, 2] * 9, "click": [0, 1] * 9}
    bundle = pr.fit(schema, pr.Model(), train=rows, epochs=1)
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [pl.DataFrame({"101": [1]})])
    engine = pr.Engine(tmp_path)
    close(engine.predict(rows), bundle.predict(rows))
    with pytest.raises(pr.DataError, match=r"'101' is not in the data; did you mean '1010'"):
        engine.predict({1010: [1]})


@pytest.mark.slow
def test_one_long_list_among_many_rows_takes_memory_for_itself_alone(
    engine, bundle, rows, monkeypatch
):
    """All lists filled up to the longest of 8,192 rows could be any number of gigabytes."""
    some = {name: each[:100] for name, each in features(engine, rows).items()}
    some["seen"] = [["a/b", "x"] * 50_000 if at == 70 else each
                    for at, each in enumerate(some["seen"])]  # fmt: skip
    run, shapes = Session.run, []

    def counted(session, feeds):
        shapes.append(feeds["seen"].shape)
        return run(session, feeds)

    monkeypatch.setattr(Session, "run", counted)
    found, expected = engine.predict(some), bundle.predict(some)
    others = np.arange(100) != 70
    close(found.filter(others), expected.filter(others))
    summed(found[[70]], expected[[70]])
    assert max(rows * longest for rows, longest in shapes) <= CELLS
    assert sum(rows for rows, _ in shapes) == 100
    shapes.clear()
    long = some["seen"][70]
    found = engine.predict_columns({name: each for name, each in some.items() if name != "seen"},
                          {"seen": long})  # fmt: skip
    assert max(rows * longest for rows, longest in shapes) <= CELLS
    summed(pl.DataFrame(found.outputs), bundle.predict({**some, "seen": [long] * 100}))


def test_files_have_it_too(engine, bundle, rows, tmp_path):
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    close(engine.predict(tmp_path / "rows.parquet"), bundle.predict(rows))


def test_many_rows_are_run_in_parts(engine, bundle, rows):
    many = {name: each * 50 for name, each in features(engine, rows).items()}
    assert len(many["user"]) > 2 * 8192
    close(engine.predict(many), bundle.predict(many))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_rows_do_not_depend_on_each_other(count, engine, rows):
    whole = engine.predict(rows)
    some = {name: each[:count] for name, each in rows.items()}
    close(engine.predict(some), whole.head(count))


def test_unseen_ids_and_nulls_are_counted(engine, bundle):
    rows = {
        "user": [10**12, 5, None], "city": ["Bern", None, "Zürich"], "slot": [9, 0, -1],
        "url": ["/1", "/x", None], "seen": [["Bern", "Zürich"], None, []],
        "age": [None, 30, float("nan")], "price": [1.0, 2.0, 3.0],
    }  # fmt: skip
    answer = engine.predict_columns(rows)
    table = bundle.encode(rows)
    assert answer.unseen == dict(table.unseen)
    assert answer.nulls == dict(table.nulls)
    assert answer.unseen["city"] == 1
    assert answer.nulls["age"] == 2
    close(pl.DataFrame(answer.outputs), bundle.predict(rows))


def test_a_shared_value_is_that_of_every_row(engine, rows):
    some = {name: each[:9] for name, each in features(engine, rows).items()}
    shared = {name: some.pop(name)[3] for name in ("user", "city", "seen", "age")}
    answer = engine.predict_columns(some, shared)
    repeated = some | {name: [value] * 9 for name, value in shared.items()}
    expected = engine.predict_columns(repeated)
    assert answer.unseen == expected.unseen
    assert answer.nulls == expected.nulls
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(answer.outputs[name], values)


def test_the_fused_score_is_the_declared_one(engine, bundle, rows):
    answer = engine.predict_columns(rows)
    assert engine.fusion_columns == ("margin",)
    found = engine.score(answer, {"margin": pl.Series(rows["margin"])})
    outputs = {name: each.to_numpy() for name, each in bundle.predict(rows).to_dict().items()}
    expected = bundle.fusion.score(bundle.schema, outputs, {"margin": pl.Series(rows["margin"])})
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("form", [dict, pl.DataFrame])
def test_a_missing_column_is_named_with_the_nearest(form, engine, rows):
    rows = {name: each for name, each in rows.items() if name != "price"} | {"prize": rows["price"]}
    with pytest.raises(pr.DataError, match=r"'price' is not in the data; did you mean 'prize'"):
        engine.predict(form(rows))


@pytest.mark.parametrize("form", [dict, pl.DataFrame])
def test_no_rows_are_refused(form, engine, rows):
    with pytest.raises(pr.DataError, match="no rows to predict"):
        engine.predict(form({name: each[:0] for name, each in features(engine, rows).items()}))


def test_columns_of_two_lengths_are_refused(engine, rows):
    with pytest.raises(pr.DataError, match=r"one length, got 'user': 399, 'city': 400"):
        engine.predict_columns({**features(engine, rows), "user": rows["user"][1:]})


def test_a_row_without_a_finite_prediction_is_refused(tmp_path):
    schema = pr.Schema([pr.DenseFeature("x", encoding="standard")], [pr.Task("click")])
    log = {"x": [1e-18, 0.0] * 32, "click": [1, 0] * 32}
    bundle = pr.fit(schema, pr.Model(), train=log, epochs=1)
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [pl.DataFrame({"x": [0.0]})])
    engine = pr.Engine(tmp_path)
    with pytest.raises(
        pr.DataError, match=r"1 of 2 rows have no finite prediction \(the first is row 1\)"
    ):
        engine.predict({"x": [0.0, 3e38]})


def test_a_bundle_that_was_not_exported_is_refused(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    with pytest.raises(pr.BundleError, match=r"has no model.onnx: run `polyrank export"):
        pr.Engine(tmp_path)


@pytest.fixture
def copy(exported, tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in exported.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(exported)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", [ROWS_FILE, "weights.safetensors", "config.toml"])
def test_a_damaged_file_is_refused_by_name(name, copy):
    (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"#")
    with pytest.raises(pr.BundleError, match=rf"damaged: {name} is not the file"):
        pr.Engine(copy)


def test_a_graph_that_cannot_be_loaded_is_refused(copy):
    from hashlib import sha256

    (copy / ROWS_FILE).write_bytes(b"no graph")
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][ROWS_FILE] = sha256(b"no graph").hexdigest()
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(pr.BundleError, match=r"model.onnx cannot be loaded by onnxruntime"):
        pr.Engine(copy)


def test_without_onnxruntime_it_says_what_to_install(exported, monkeypatch):
    monkeypatch.setattr("polyrank.serve.extra.find_spec", lambda _: None)
    with pytest.raises(pr.PolyrankError, match=r"the engine needs onnxruntime: pip install 'polyr"):
        pr.Engine(exported)


BLOCKED = """
import sys
for name in ("torch", "numba"):
    sys.modules[name] = None  # an import of it is an ImportError
import polyrank as pr
print(pr.Engine({folder!r}).predict({rows!r}).to_dict(as_series=False))
"""


def test_it_needs_neither_torch_nor_numba(engine, exported, rows):
    some = {name: each[:3] for name, each in features(engine, rows).items()}
    code = BLOCKED.format(folder=str(exported), rows=some)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(engine.predict(some).to_dict(as_series=False))


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_is_refused(exported, threads):
    with pytest.raises(
        pr.ConfigError, match=f"threads must be a whole number of at least 1, got {threads}"
    ):
        pr.Engine(exported, threads=threads)
