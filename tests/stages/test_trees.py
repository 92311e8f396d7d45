"""First-stage trees: what they read, how they are fitted out of fold, and what is kept of them."""

import logging
from dataclasses import replace
from math import log

import lightgbm
import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank import spec
from polyrank.data.sampling import Sampling
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import BundleError, ConfigError
from polyrank.objective.losses import Supervision
from polyrank.stages import trees as stage
from polyrank.stages.trees import (
    Boosters,
    Column,
    Rows,
    Target,
    Trees,
    columns_of,
    fit_boosters,
    matrix_of,
    rows_of,
)

FEW = Trees(folds=3, rounds=30, leaves=7, lr=0.2, patience=5)
SCHEMA = pr.Schema(
    [
        pr.SparseFeature("shop"),
        pr.SparseFeature("item"),
        pr.SequenceFeature("seen", shared_with="item"),
        pr.DenseFeature("price"),
        pr.DenseFeature("age", encoding="standard"),
    ],
    [
        pr.Task("click"),
        pr.Task("buy", given="click", space="click"),
        pr.Task("spend", kind="regression", given="buy"),
    ],
    pr.Keys(weight="weight"),
)


def log_of(rows=1200, seed=0):
    rng = np.random.default_rng(seed)
    shop, price = rng.integers(0, 8, rows), rng.lognormal(2, 1, rows)
    age = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(40, 9, rows))
    click = rng.random(rows) < 1 / (1 + np.exp(-(shop % 3) + (price > 7) - 0.5))
    buy = click & (rng.random(rows) < 0.3 + 0.5 * (shop > 4))
    return pl.DataFrame(
        {
            "shop": shop, "item": rng.integers(0, 900, rows), "seen": [[1, 2]] * rows,
            "price": price, "age": pl.Series(age, nan_to_null=True),
            "click": click.astype(int), "buy": buy.astype(int),
            "spend": np.where(buy, price * 2 + rng.normal(size=rows), 0),
            "weight": rng.choice([0.5, 1.0, 2.0], rows),
        }
    )  # fmt: skip


def encoded(frame=None, schema=SCHEMA):
    frame = log_of() if frame is None else frame
    vocab = Vocab.fit(frame, schema)
    return vocab, encode(frame, schema, vocab, numbers=True)


def fitted(trees=FEW, frame=None, **options):
    vocab, table = encoded(frame)
    columns = columns_of(SCHEMA, vocab.rows, trees)
    rows = rows_of(table, columns, Supervision.of(table).likelihoods)
    folds = np.random.default_rng(1).integers(0, trees.folds, len(table))
    return rows, folds, fit_boosters(trees, columns, rows, folds, **options)


def margin(rate, rows):
    rate = (rate * rows + 1) / (rows + 2)
    return log(rate / (1 - rate))


def test_the_spec_comes_back_from_its_table():
    trees = Trees(folds=np.int64(5), lr=0.1)
    table = spec.to_table(trees)
    assert table == {"folds": 5, "rounds": 500, "leaves": 63, "lr": 0.1, "patience": 50,
                     "categories": 256}  # fmt: skip
    assert spec.from_table(Trees, table, "model.trees") == trees


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"folds": 1}, "trees: folds must be a whole number of at least 2, got 1"),
        ({"rounds": 0}, "trees: rounds must be a whole number of at least 1, got 0"),
        ({"leaves": 1}, "trees: leaves must be a whole number of at least 2"),
        ({"patience": True}, "trees: patience must be a whole number of at least 1, got True"),
        ({"lr": 0}, "trees: lr must be a number above 0 and at most 1, got 0"),
        ({"categories": 70_000}, "at most 65,536, got 70000"),
    ],
)
def test_bad_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        Trees(**option)


def test_categories_come_first_and_what_is_not_read_is_logged(caplog):
    vocab, table = encoded()
    with caplog.at_level(logging.INFO):
        columns = columns_of(SCHEMA, vocab.rows, FEW)
    assert [(each.feature, each.categories) for each in columns] == [
        ("shop", 9), ("price", 0), ("age", 0)
    ]  # fmt: skip
    assert "trees do not read: 'item' has" in caplog.text
    assert "'seen' holds lists" in caplog.text
    matrix = matrix_of(table, columns)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix[:, 0], table.ids[0])
    frame = log_of()
    np.testing.assert_array_equal(matrix[:, 1], frame["price"].cast(pl.Float32).to_numpy())
    age = frame["age"].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    np.testing.assert_array_equal(matrix[:, 2], age)
    assert np.isnan(matrix[:, 2]).any()


def test_the_limit_of_categories_decides_what_is_read():
    vocab, _ = encoded()
    assert columns_of(SCHEMA, vocab.rows, Trees(categories=9))[0] == Column(
        feature="shop", categories=9
    )
    assert [each.feature for each in columns_of(SCHEMA, vocab.rows, Trees(categories=8))] == [
        "price",
        "age",
    ]


def test_a_log_without_anything_to_read_is_refused():
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    vocab, _ = encoded(schema=schema)
    with pytest.raises(
        ConfigError, match=r"nothing to read.*'item' has [0-9]+ rows.*trees = false"
    ):
        columns_of(schema, vocab.rows, FEW)


def test_a_table_without_numbers_is_refused():
    vocab, _ = encoded()
    table = encode(log_of(), SCHEMA, vocab)
    assert table.numbers.shape == (len(table), 0)
    with pytest.raises(ValueError, match="numbers=True"):
        matrix_of(table, columns_of(SCHEMA, vocab.rows, FEW))


def test_a_head_learns_where_its_parent_happened_and_its_label_is_known():
    frame = log_of().with_columns(
        pl.when(pl.int_range(pl.len()) < 9).then(None).otherwise("buy").alias("buy")
    )
    frame = frame.with_columns(log_of()["buy"].scatter(range(9), None))
    vocab, table = encoded(frame)
    likelihoods = Supervision.of(table).likelihoods
    rows = rows_of(table, columns_of(SCHEMA, vocab.rows, FEW), likelihoods)
    click, buy, spend = rows.targets.values()
    assert list(rows.targets) == ["click", "buy", "spend"]
    assert (click.event, buy.event, spend.event) == (True, True, False)
    happened = (frame["click"] == 1).to_numpy() & (np.arange(len(frame)) >= 9)
    np.testing.assert_array_equal(buy.rows, np.flatnonzero(happened))
    assert len(click.rows) == len(frame)
    learned = spend.label[spend.rows]
    assert abs(np.average(learned, weights=spend.weight[spend.rows])) < 1e-6
    assert abs(np.average(learned**2, weights=spend.weight[spend.rows]) - 1) < 1e-6


def test_sampled_rows_are_weighted_to_be_the_whole_log():
    vocab, table = encoded()
    columns = columns_of(SCHEMA, vocab.rows, FEW)
    sampling = Sampling("click", keep=0.25)
    likelihoods = Supervision.of(table).likelihoods
    found = rows_of(table, columns, likelihoods, sampling).targets["buy"].weight
    click = table.labels_by_task["click"]
    np.testing.assert_array_equal(found, table.weight * np.where(click == 0, 4.0, 1.0))


def test_a_training_row_gets_the_margin_of_the_booster_without_its_fold():
    rows, folds, boosters = fitted()
    found = boosters.cross_fitted(rows.matrix, folds)
    assert found.dtype == np.float32
    assert found.shape == (1200, 3)
    for at, (head, parts) in enumerate(boosters.parts.items()):
        target = rows.targets[head]
        assert len(parts) == 3
        for fold, part in enumerate(parts):
            inside = folds == fold
            expected = part.margins(rows.matrix[inside]).astype(np.float32)
            np.testing.assert_array_equal(found[inside, at], expected)
            # The same booster, fitted on the rows outside alone, by LightGBM's own hands.
            outside = np.setdiff1d(target.rows, np.flatnonzero(inside))
            parameters = {
                "objective": "binary" if target.event else "regression", "num_leaves": 7,
                "learning_rate": 0.2, "min_data_in_leaf": 20, "verbosity": -1, "seed": 0,
                "deterministic": True, "force_row_wise": True, "num_threads": 1,
            }  # fmt: skip
            everything = lightgbm.Dataset(
                rows.matrix[target.rows], target.label[target.rows],
                weight=target.weight[target.rows], categorical_feature=[0], params=parameters,
            )  # fmt: skip
            own = everything.construct().subset(np.searchsorted(target.rows, outside))
            again = lightgbm.train(parameters, own, part.trees)
            np.testing.assert_array_equal(
                part.margins(rows.matrix), again.predict(rows.matrix, raw_score=True)
            )


def test_folds_never_leak():
    # A random label of each row, which its one number identifies: only a booster that has seen the
    # row can tell it.
    rng = np.random.default_rng(0)
    matrix = np.arange(3000, dtype=np.float32)[rng.permutation(3000)][:, None]
    label = rng.integers(0, 2, 3000).astype(float)
    rows = Rows(matrix, {"click": Target(label, None, event=True)})
    folds = rng.integers(0, 3, 3000)
    trees = replace(FEW, rounds=40, patience=40, leaves=31)
    boosters = fit_boosters(trees, (Column(feature="x"),), rows, folds)

    def auc(scores):
        ranks = np.argsort(np.argsort(scores))
        return (ranks[label == 1].mean() - (label.sum() - 1) / 2) / (label == 0).sum()

    standard_error = (3001 / 12 / label.sum() / (3000 - label.sum())) ** 0.5
    held = boosters.cross_fitted(matrix, folds)[:, 0] + 1e-9 * rng.random(3000)
    assert abs(auc(held) - 0.5) < 3 * standard_error
    boosters = fit_boosters(trees, (Column(feature="x"),), rows, folds, valid=rows)
    assert auc(boosters.margins(matrix)[:, 0]) > 0.6


def test_the_number_of_threads_changes_no_bit():
    files = [fitted(threads=count)[2].to_files(parts=True) for count in (1, 2)]
    assert files[0] == files[1]
    assert fitted(seed=1)[2].to_files(parts=True).keys() == files[0].keys()


def test_validation_rows_say_how_many_trees():
    rows, _, boosters = fitted(replace(FEW, rounds=200, patience=3))
    counts = {head: each.trees for head, each in boosters.full.items()}
    assert all(1 <= count < 200 for count in counts.values())
    for head, parts in boosters.parts.items():
        assert {part.trees for part in parts} <= {counts[head]}
    # Validation rows that are the training rows are never worse with one more tree.
    _, _, more = fitted(replace(FEW, rounds=20, patience=3), valid=rows)
    assert more.full["click"].trees == 20
    # Those that say nothing of a head leave it to its first fold.
    silent = {
        head: replace(target, label=np.full_like(target.label, np.nan))
        for head, target in rows.targets.items()
    }
    _, _, same = fitted(replace(FEW, rounds=200, patience=3), valid=Rows(rows.matrix, silent))
    assert same.to_files() == boosters.to_files()


def test_a_head_of_few_rows_has_its_base_rate(caplog):
    few = log_of().with_columns(
        pl.when(pl.int_range(pl.len()) < 20).then(1).otherwise(0).alias("click")
    )
    few = few.with_columns(buy=pl.col("buy") * pl.col("click"), spend=pl.lit(0.0))
    with caplog.at_level(logging.WARNING):
        rows, folds, boosters = fitted(frame=few)
    assert "head 'buy' has too few rows" in caplog.text
    assert "(20 rows teach it)" in caplog.text
    target = rows.targets["buy"]
    rate = np.average(target.label[:20], weights=target.weight[:20])
    at = list(boosters.full).index("buy")
    found = boosters.margins(rows.matrix)[:, at]
    np.testing.assert_allclose(found, margin(rate, 20), rtol=1e-6)
    outside = np.flatnonzero(folds[:20] != 1)
    rate = np.average(target.label[outside], weights=target.weight[outside])
    held = boosters.cross_fitted(rows.matrix, folds)[folds == 1, at]
    np.testing.assert_allclose(held, margin(rate, len(outside)), rtol=1e-6)


@pytest.mark.parametrize(("value", "rows"), [(0.0, 300), (1.0, 300), (np.nan, 0)])
def test_a_head_of_one_label_or_none_has_a_finite_margin(value, rows, caplog):
    label = np.full(300, value)
    data = Rows(np.zeros((300, 1), np.float32), {"click": Target(label, None, event=True)})
    boosters = fit_boosters(FEW, (Column(feature="x"),), data, np.arange(300) % 3)
    assert "head 'click' has too few rows, or all of one label" in caplog.text
    expected = margin(value if rows else 0.5, rows)
    np.testing.assert_allclose(boosters.margins(data.matrix)[:, 0], expected, rtol=1e-6)


def test_one_label_outside_one_fold_leaves_the_others_their_trees(caplog):
    rng = np.random.default_rng(0)
    matrix, folds = rng.normal(size=(600, 1)).astype(np.float32), np.arange(600) % 3
    label = ((matrix[:, 0] > 0) & (folds == 0)).astype(float)
    data = Rows(matrix, {"click": Target(label, None, event=True)})
    boosters = fit_boosters(FEW, (Column(feature="x"),), data, folds)
    assert "without fold 0 (600 rows" in caplog.text
    parts = boosters.parts["click"]
    assert parts[0].bias == pytest.approx(margin(0, 400))
    assert len(parts[1].columns)
    assert len(parts[2].columns)


def test_boosters_come_back_without_being_fitted():
    rows, folds, boosters = fitted()
    table, files = boosters.to_table(), boosters.to_files()
    assert list(files) == ["trees/click.txt", "trees/buy.txt", "trees/spend.txt"]
    served = Boosters.read(table, files)
    assert served.columns == boosters.columns
    np.testing.assert_array_equal(served.margins(rows.matrix), boosters.margins(rows.matrix))
    assert not served.parts
    resumed = Boosters.read(table, boosters.to_files(parts=True))
    np.testing.assert_array_equal(
        resumed.cross_fitted(rows.matrix, folds), boosters.cross_fitted(rows.matrix, folds)
    )
    with pytest.raises(BundleError, match=r"the file 'trees/click.txt' is missing"):
        Boosters.read(table, {})
    with pytest.raises(BundleError, match=r"trees: trees/buy.txt: no LightGBM model"):
        Boosters.read(table, {**files, "trees/buy.txt": "x"})
    # The text is a whole model for LightGBM too.
    booster = lightgbm.Booster(model_str=files["trees/click.txt"])
    np.testing.assert_array_equal(
        booster.predict(rows.matrix, raw_score=True).astype(np.float32),
        boosters.margins(rows.matrix)[:, 0],
    )


def test_importance_is_each_feature_s_share_of_the_gain():
    _, _, boosters = fitted()
    shares = boosters.importance()
    assert list(shares) == ["click", "buy", "spend"]
    assert max(shares["click"], key=shares["click"].get) in ("shop", "price")
    assert next(iter(shares["spend"])) == "price"
    for each in shares.values():
        assert sum(each.values()) == pytest.approx(1)
        assert list(each.values()) == sorted(each.values(), reverse=True)


def test_without_lightgbm_fitting_is_refused(monkeypatch):
    rows, folds, boosters = fitted()
    monkeypatch.setattr(stage, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'polyrank\[trees\]'"):
        fit_boosters(FEW, boosters.columns, rows, folds)
