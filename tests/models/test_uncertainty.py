"""Standard deviations of logits against a plain loop in float64, and who has none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import pi, sqrt

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.models.uncertainty import uncertain_tasks
from polyrank.nn.embed import Padded, TensorBag, coefficients, padded_coefficients, pooled

POOLINGS = ("sum", "mean", "last")
KNOWN = {"user": 12, "item": 8, "history": 8, "recent": 9, "tags": 6}  # ids 0 … n − 1


def a_log(rows: int = 400, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)

    def lists(ids: int, most: int) -> list[list[int]]:
        return [rng.integers(0, ids, rng.integers(0, most)).tolist() for _ in range(rows)]

    log = {
        "user": rng.integers(0, 12, rows),
        "item": rng.integers(0, 8, rows),
        "history": lists(8, 6),
        "recent": lists(9, 4),
        "tags": lists(6, 5),
        "price": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        "click": rng.integers(0, 2, rows),
        "stars": rng.normal(size=rows),
    }
    frame = pl.DataFrame(log).with_columns(buy=pl.col("click") * rng.integers(0, 2, rows))
    drawn = [rng.normal(0.5, 1, len(row)).tolist() for row in frame["tags"]]
    return frame.with_columns(pl.Series("w", drawn, dtype=pl.List(pl.Float64)))


SCHEMA = pr.Schema(
    [
        pr.SparseFeature("user"),
        pr.SparseFeature("item"),
        pr.SequenceFeature("history", shared_with="item", pooling="mean"),
        pr.SequenceFeature("recent", pooling="last"),
        pr.SequenceFeature("tags", pooling="sum", weights="w"),
        pr.DenseFeature("price", encoding="bins", bins=4),
    ],
    [
        pr.Task("click"),
        pr.Task("buy", given="click", space="click"),
        pr.Task("stars", kind="regression"),
    ],
)


@pytest.fixture(scope="module")
def bundle():
    return pr.fit(SCHEMA, pr.Model(embed_dim=2, tower=[2]), train=a_log(), epochs=1, seed=3)


def looked_up(row: dict, name: str) -> dict[object, float]:
    """The coefficient of each id of a feature in a row; an unseen one is a key of its own."""
    values = row[name]
    if not isinstance(values, list):
        return {values: 1.0}
    weights = np.float32(row["w"]).tolist() if name == "tags" else [1.0] * len(values)
    if name == "recent":
        values, weights = values[-1:], weights[-1:]
    size = len(values) if name == "history" else 1
    found: dict[object, float] = {}
    for place, (value, weight) in enumerate(zip(values, weights, strict=True)):
        key = value if value < KNOWN[name] else ("unseen", place)
        found[key] = found.get(key, 0.0) + weight / size
    return found


def expected(bundle: pr.Bundle, rows: pl.DataFrame, task: int) -> np.ndarray:
    """The deviation of each row in plain float64."""
    weights = {k: v.numpy().astype(np.float64) for k, v in bundle.ranker.named_weights().items()}
    owner = {"history": "item"}
    bins = bundle.encode(rows).batches(bundle.ranker.layout, len(rows))
    places = [slot.name for slot in SCHEMA.fields]
    local = next(iter(bins)).ids[places.index("price")]
    local = local - bundle.ranker.layout.offsets[places.index("price")]
    found = []
    for number, row in enumerate(rows.iter_rows(named=True)):
        variance = 1 / weights["wide.precision.price"][local[number], task]
        for name in KNOWN:
            place = {
                int(each): at + 1
                for at, each in enumerate(bundle.vocab.tables[owner.get(name, name)].values)
            }
            for each, x in looked_up(row, name).items():
                if each in place:
                    precision = weights[f"wide.precision.{name}"][place[each], task]
                else:
                    precision = weights[f"wide.prior.{name}"][task]
                variance += x**2 / precision
        found.append(sqrt(variance * (1 + pi / 8 * variance)))
    return np.array(found)


def new_rows() -> pl.DataFrame:
    """Known and unseen ids, empty lists, repeats, and numbers that are missing."""
    unseen = {"user": 99, "item": 99, "history": [99, 1, 98, 1, 99], "recent": [1, 99],
              "tags": [99, 2, 2], "w": [0.5, -1.0, 3.0], "price": None}  # fmt: skip
    empty = {"user": 0, "item": 0, "history": [], "recent": [], "tags": [], "w": [], "price": 0.1}
    rows = a_log(40, seed=9).select(list(unseen))
    return pl.concat([rows, pl.DataFrame([unseen, empty], schema=rows.schema)])


def test_deviations_are_those_of_a_plain_loop(bundle):
    rows = new_rows()
    found = bundle.predict(rows, uncertainty=True)
    plain = bundle.predict(rows)
    assert found.columns == [*plain.columns, "p_click_sd", "p_buy_given_click_sd"]
    assert found.select(plain.columns).equals(plain)
    # In float64 of the same float32 precisions: an order of sums apart.
    for task, name in enumerate(("p_click_sd", "p_buy_given_click_sd")):
        np.testing.assert_allclose(found[name], expected(bundle, rows, task), rtol=1e-10)


def test_the_precisions_of_a_head_are_found_behind_those_of_a_head_of_several():
    log = a_log().with_columns(level=pl.Series(np.arange(400) % 4))
    tasks = [pr.Task("level", kind="ordinal"), pr.Task("click"), pr.Task("buy", given="click")]
    schema = pr.Schema([pr.SparseFeature("user")], tasks)
    bundle = pr.fit(schema, pr.Model(tower=[4], embed_dim=4), train=log, epochs=1, progress=False)
    first = bundle.ranker.first
    for head in ("click", "buy"):
        name, at = first.precision_at(head)
        precision = first.stage[name].precision[:, at]
        ids = torch.arange(3, dtype=torch.int32)[None]
        found = first.variance(ids, ())[head]
        torch.testing.assert_close(found, 1 / precision[:3].double(), rtol=1e-5, atol=0)


def test_an_unseen_id_is_less_sure_than_a_known_one(bundle):
    row = {"history": [[]], "recent": [[]], "tags": [[]], "w": [[]], "item": [0], "price": [0.0]}
    known, unseen = (
        bundle.predict({**row, "user": [user]}, uncertainty=["click"])["p_click_sd"][0]
        for user in (0, 99)
    )
    assert known < unseen


@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.integers(0, 7), max_size=5), order=st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter_and_an_unseen_id_widens_a_sum(bundle, ids, order):
    shuffled = order.sample(ids, len(ids))
    weights = [0.5] * len(ids)
    rows = {
        "user": [0] * 3, "item": [0] * 3, "recent": [[]] * 3, "price": [0.0] * 3,
        "history": [ids, shuffled, ids], "tags": [ids, shuffled, [*ids, 99]],
        "w": [weights, weights, [*weights, 0.5]],
    }  # fmt: skip
    lists = {name: pl.List(pl.Int64) for name in ("recent", "history", "tags")}
    frame = pl.DataFrame(rows, schema_overrides={**lists, "w": pl.List(pl.Float64)})
    one, other, wider = bundle.predict(frame, uncertainty=["click"])["p_click_sd"]
    np.testing.assert_allclose(one, other, rtol=1e-12)  # sums of ten float64 numbers
    assert wider > one


def test_a_file_by_pieces_and_a_saved_bundle_give_the_same(bundle, tmp_path, monkeypatch):
    rows = new_rows()
    bundle.save(tmp_path / "bundle")
    rows.write_parquet(tmp_path / "rows.parquet")
    whole = bundle.predict(rows, uncertainty=True)
    monkeypatch.setattr("polyrank.bundle.model.PIECE_ROWS", 7)
    loaded = pr.load(tmp_path / "bundle").predict(tmp_path / "rows.parquet", uncertainty=True)
    names = ["p_click_sd", "p_buy_given_click_sd"]
    np.testing.assert_allclose(loaded.select(names), whole.select(names), rtol=1e-12)


def test_named_tasks_are_the_only_ones(bundle):
    found = bundle.predict(new_rows(), uncertainty=["buy"])
    assert [name for name in found.columns if name.endswith("_sd")] == ["p_buy_given_click_sd"]


def test_the_log_says_who_has_none(bundle, caplog):
    with caplog.at_level("INFO", logger="polyrank.models.uncertainty"):
        assert [task.name for task in uncertain_tasks(bundle.ranker, True)] == ["click", "buy"]
    assert caplog.messages == [
        "uncertainty: no standard deviation of task 'stars': its kind is 'regression', and only a "
        "binary head has one logit"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["stars"], "task 'stars' has no standard deviation: its kind is 'regression', and only a"),
        (["clik"], "unknown task 'clik'; did you mean 'click'"),
        ("click", "uncertainty must be true or a list of tasks, got 'click'"),
        (1, "uncertainty must be true or a list of tasks, got 1"),
    ],
)
def test_who_has_none_is_refused_by_name(bundle, asked, message):
    with pytest.raises(ConfigError, match=message):
        bundle.predict(new_rows(), uncertainty=asked)


@pytest.mark.parametrize(
    ("features", "wide", "message"),
    [
        (
            [pr.SparseFeature("user")],
            False,
            "no first stage is added to its logit: wide rows are, without `wide = false`",
        ),
        (
            [pr.SparseFeature("user", wide=False)],
            pr.Wide(),
            "first stage 'wide' is added to its logit, and no feature has",
        ),
    ],
)
def test_a_model_without_wide_rows_is_refused(features, wide, message):
    schema = pr.Schema(features, [pr.Task("click")])
    bundle = pr.fit(schema, pr.Model(embed_dim=2, wide=wide), train=a_log(60), epochs=1)
    with pytest.raises(ConfigError, match=message):
        bundle.predict(a_log(5), uncertainty=True)


def test_a_head_that_trees_are_added_to_is_refused():
    pytest.importorskip("lightgbm")
    schema = pr.Schema([pr.SparseFeature("user"), pr.DenseFeature("price")], [pr.Task("click")])
    model = pr.Model(
        embed_dim=2, wide=pr.Wide(folds=2), trees=pr.Trees(folds=2, rounds=2, leaves=4)
    )
    bundle = pr.fit(schema, model, train=a_log(), epochs=1)
    first = bundle.ranker.first
    assert first is not None
    first.added[:, 0] = torch.tensor([float(name == "trees") for name in first.stage])
    with pytest.raises(
        ConfigError, match="first stage 'trees' is added to its logit, and it has no posterior"
    ):
        bundle.predict(a_log(5), uncertainty=True)
    first.added[:, 0] = torch.tensor([float(name == "wide") for name in first.stage])
    assert "p_click_sd" in bundle.predict(a_log(5), uncertainty=True).columns


def test_a_calibration_map_leaves_it_as_it_is(bundle):
    from polyrank.calibration import Platt
    from polyrank.calibration.fitting import Calibrator

    platt = Calibrator(Platt(2.0, -1.0), 100, 40, {"none": 0.6, "platt": 0.5})
    mapped = replace(bundle, calibrators={"click": platt})
    before, after = (each.predict(new_rows(), uncertainty=True) for each in (bundle, mapped))
    assert not before["p_click"].equals(after["p_click"])
    assert before["p_click_sd"].equals(after["p_click_sd"])


@settings(max_examples=30, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=4),
    pooling=st.sampled_from(POOLINGS),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_coefficients_are_those_of_pooling(lists, pooling, weighted, seed):
    rng = np.random.default_rng(seed)
    ids = torch.tensor([each for row in lists for each in row], dtype=torch.int64)
    offsets = torch.tensor(np.cumsum([0, *map(len, lists)]))
    weights = torch.from_numpy(rng.normal(1, 1, len(ids)).astype(np.float32)) if weighted else None
    bag = TensorBag(ids, offsets, weights)
    table = torch.from_numpy(rng.normal(size=(6, 1)).astype(np.float32))
    own, rows, x = coefficients(bag, pooling)
    found = torch.zeros(len(lists), dtype=torch.float64)
    found.index_add_(0, rows, x * table[own, 0].double())
    expected = pooled(bag, pooling, table)[:, 0]
    # Five float32 terms, which may nearly cancel in what a mean divides by.
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    matrix = torch.full((len(lists), 6), -1)
    padded_weights = torch.zeros(len(lists), 6) if weighted else None
    for row, (start, end) in enumerate(pairwise(offsets.tolist())):
        matrix[row, : end - start] = ids[start:end]
        if padded_weights is not None:
            assert weights is not None
            padded_weights[row, : end - start] = weights[start:end]
    factors = padded_coefficients(Padded(matrix, padded_weights), pooling)
    again = (factors * table[matrix.clamp(min=0), 0].double()).sum(1)
    torch.testing.assert_close(again.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exported_file_gives_the_same(bundle, tmp_path):
    pytest.importorskip("onnx")
    from polyrank.serve.app.scorer import Scorer
    from polyrank.serve.export.write import export
    from polyrank.serve.workers import Exported

    bundle.save(tmp_path / "bundle")
    rows = new_rows()
    export(bundle, tmp_path / "bundle", [rows], uncertainty=True)
    engine = pr.Engine(tmp_path / "bundle")
    served = engine.predict(rows)
    assert engine.outputs == tuple(served.columns)
    assert Exported.of(tmp_path / "bundle", None, 1).outputs == engine.outputs
    found = bundle.predict(rows, uncertainty=True)
    body = json.dumps({"rows": rows.head(3).select(engine.inputs).to_dict(as_series=False)})
    answer = json.loads(Scorer(engine, 100)(body.encode()).body)
    np.testing.assert_array_equal(answer["outputs"]["p_click_sd"], served["p_click_sd"][:3])
    assert served.columns == found.columns
    for name in ("p_click_sd", "p_buy_given_click_sd"):
        # Variances in float32, and weights of means summed in it.
        np.testing.assert_allclose(served[name], found[name], rtol=1e-6)
