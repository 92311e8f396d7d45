"""Permutation importance against a plain loop, scikit-learn, and what it must refuse."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss, roc_auc_score

import polyrank as pr
from polyrank.data.read import Joined
from polyrank.features import FEATURES
from polyrank.inspection.importance import Drop, Importance, groups_of, importance, permuted
from polyrank.metrics.bootstrap import bootstrap
from polyrank.metrics.metric import Metric
from polyrank.metrics.undefined import Undefined

SIZE, PERMUTATIONS, SEED = 1500, 4, 3


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(4)
    item = generator.integers(0, 10, SIZE)
    price = generator.normal(size=SIZE).astype(np.float32)
    click = generator.random(SIZE) < 1 / (1 + np.exp(1 - 0.3 * item - price))
    return {
        "item": item,
        "price": price,
        "noise": generator.integers(0, 3, SIZE),
        "position": generator.integers(1, 4, SIZE),
        "user": generator.integers(0, 400, SIZE),
        "click": click.astype(int),
        "buy": (click & (generator.random(SIZE) < 0.2 + 0.05 * item)).astype(int),
        "stay": np.where(generator.random(SIZE) < 0.1, np.nan, 3 + item + price),
    }


@pytest.fixture(scope="module")
def bundle(rows):
    schema = pr.Schema(
        [
            pr.SparseFeature("item"),
            pr.SparseFeature("noise"),
            pr.SparseFeature("position", serving=1),
            pr.DenseFeature("price", encoding="standard"),
        ],
        [pr.Task("click"), pr.Task("buy", given="click"), pr.Task("stay", kind="regression")],
    )
    model = pr.Model(trunk=pr.SharedBottom(), tower=[8], embed_dim=4)
    return pr.fit(schema, model, train=rows, valid=rows, epochs=3, batch_size=128, seed=1)


@pytest.fixture(scope="module")
def found(bundle, rows):
    return bundle.importance(rows, permutations=PERMUTATIONS, seed=SEED)


def of(found, score, feature):
    (drop,) = (each for each in found.drops if (each.score, each.feature) == (score, feature))
    return drop


def permutations():
    return [np.random.default_rng([SEED, k]).permutation(SIZE) for k in range(PERMUTATIONS)]


@pytest.mark.parametrize("feature", ["item", "price", "noise"])
@pytest.mark.parametrize(
    ("score", "column", "label", "loss"),
    [
        ("click @ all", "p_click", "click", roc_auc_score),
        ("buy @ all", "p_buy", "buy", roc_auc_score),
        ("stay @ all", "stay", "stay", None),
    ],
)
def test_the_drop_is_that_of_a_plain_loop_over_raw_rows(
    bundle, rows, found, feature, score, column, label, loss
):
    kept = ~np.isnan(rows[label])

    def worth(columns):  # the higher, the better
        predicted = bundle.predict(columns)[column].to_numpy()[kept]
        if loss is not None:
            return loss(rows[label], predicted)
        return -np.sqrt(np.mean((rows[label][kept] - predicted) ** 2))

    whole = worth(rows)
    drops = [whole - worth({**rows, feature: rows[feature][order]}) for order in permutations()]
    drop = of(found, score, feature)
    # |Δp| ≤ 1e-6 between two float32 passes moves a rank at most by near ties
    assert drop.value == pytest.approx(np.mean(drops), abs=1e-5)
    assert abs(found.whole[score]) == pytest.approx(abs(whole), abs=1e-5)


def test_the_interval_adds_the_variance_over_rows_and_over_permutations(bundle, rows, found):
    label = rows["click"].astype(float)

    def replicates(columns):
        predicted = bundle.predict(columns)["p_click"].to_numpy()
        return bootstrap(label, predicted)["auc"], roc_auc_score(label, predicted)

    base, whole = replicates(rows)
    others = [replicates({**rows, "item": rows["item"][order]}) for order in permutations()]
    over_rows = 1.96 * np.std(base - np.mean([each for each, _ in others], axis=0), ddof=1)
    drops = [whole - value for _, value in others]
    t = stats.t.ppf(0.975, PERMUTATIONS - 1)
    over_permutations = t * np.std(drops, ddof=1) / PERMUTATIONS**0.5
    reach = np.hypot(over_rows, over_permutations)
    drop = of(found, "click @ all", "item")
    assert drop.high - drop.value == pytest.approx(reach, rel=1e-3)
    assert drop.value - drop.low == pytest.approx(reach, rel=1e-3)


class Fitted(ClassifierMixin, BaseEstimator):
    """The bundle's click, as scikit-learn asks for it."""

    def __init__(self, bundle=None, rows=None):
        self.bundle, self.rows, self.classes_ = bundle, rows, np.array([0, 1])

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        columns = dict(zip(("item", "noise", "price"), x.T, strict=True))
        columns = {name: values.astype(int) for name, values in columns.items() if name != "price"}
        found = self.bundle.predict({**columns, "price": x[:, 2].astype(np.float32)})
        return np.column_stack([1 - found["p_click"], found["p_click"]])


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "scoring"), [("auc", "roc_auc"), ("log_loss", "neg_log_loss")])
def test_it_agrees_with_scikit_learn_within_the_luck_of_permutations(bundle, rows, metric, scoring):
    x = np.column_stack([rows["item"], rows["noise"], rows["price"]])
    reference = permutation_importance(
        Fitted(bundle), x, rows["click"], scoring=scoring, n_repeats=20, random_state=0
    )
    found = bundle.importance(rows, scores=["click @ all"], metric=metric, permutations=20, seed=1)
    assert set(found.whole) == {"click @ all"}
    for index, feature in enumerate(("item", "noise", "price")):
        drop = of(found, "click @ all", feature)
        luck = reference.importances_std[index] * (2 / 20) ** 0.5
        assert abs(drop.value - reference.importances_mean[index]) < 5 * luck + 1e-6
    if metric == "log_loss":
        assert found.whole["click @ all"] == pytest.approx(
            log_loss(rows["click"], bundle.predict(rows)["p_click"]), rel=1e-6
        )


def test_what_is_set_at_prediction_is_left_out_and_said(found):
    assert found.left_out == {"position": "it is set at prediction, to 1"}
    assert "position is left out: it is set at prediction, to 1" in found.remarks
    assert {each.feature for each in found.drops} == {"item", "noise", "price"}


def test_it_prints_and_writes_what_it_holds(found):
    text = str(found)
    assert text.startswith("permutation importance on 1,500 test rows; 4 permutations\n")
    assert "click @ all        auc" in text
    assert "– position is left out" in text
    table = found.to_json()
    assert table["drops"][0].keys() == {
        "score", "metric", "feature", "value", "low", "high", "reason"
    }  # fmt: skip
    assert table["whole"] == found.whole
    frame = found.to_frame()
    assert frame.columns == ["score", "metric", "feature", "drop", "low", "high"]
    assert frame.height == len(found.drops) == 3 * 4
    assert "<table>" in found._repr_html_()


def test_many_features_are_counted_in_print():
    drops = tuple(Drop("click @ all", "auc", f"f{each}", -each) for each in range(20))
    many = Importance("test", 9, 9, 2, {"click @ all": 0.5}, drops, {}, {}, {})
    assert "… and 5 more" in str(many)
    assert "f14" in str(many)
    assert "f15" not in str(many)


def test_a_large_table_is_drawn_from(bundle, rows):
    found = bundle.importance(rows, scores=["click @ all"], most_rows=200, permutations=2)
    assert (found.rows, found.of) == (200, SIZE)
    assert "on 200 test rows, drawn from 1,500" in str(found)


def test_features_that_somebody_names_move_together(bundle, rows):
    found = bundle.importance(
        rows, scores=["click @ all"], together={"both": ["item", "price"]}, permutations=2
    )
    assert {each.feature for each in found.drops} == {"both", "noise"}
    assert found.remarks[0] == "both: item, price are permuted together"
    orders = [np.random.default_rng([0, k]).permutation(SIZE) for k in range(2)]
    expected = [
        roc_auc_score(
            rows["click"],
            bundle.predict({**rows, "item": rows["item"][o], "price": rows["price"][o]})["p_click"],
        )
        for o in orders
    ]
    whole = roc_auc_score(rows["click"], bundle.predict(rows)["p_click"])
    drop = of(found, "click @ all", "both")
    assert drop.value == pytest.approx(whole - np.mean(expected), abs=1e-5)


def test_lists_that_come_by_one_key_move_together_with_it():
    generator = np.random.default_rng(1)
    users = {
        "user": np.arange(20),
        "seen": [[int(each) % 5] for each in range(20)],
        "liked": [[int(each) % 3, 1] for each in range(20)],
    }
    log = {
        "user": generator.integers(0, 20, 300),
        "item": generator.integers(0, 5, 300),
        "click": generator.integers(0, 2, 300),
    }
    schema = pr.Schema(
        [
            pr.SparseFeature("user"),
            pr.SparseFeature("item"),
            pr.SequenceFeature("seen"),
            pr.SequenceFeature("liked"),
        ],
        [pr.Task("click")],
    )
    joined = Joined(log, users, "user")
    bundle = pr.fit(schema, pr.Model(embed_dim=4), train=joined, epochs=1)
    found = bundle.importance(joined, permutations=2)
    assert found.together == {"by user": ("user", "seen", "liked")}
    plain = pl.DataFrame(log).join(pl.DataFrame(users), on="user", maintain_order="left")
    asked = bundle.importance(
        plain, permutations=2, together={"by user": ["user", "seen", "liked"]}
    )
    for feature in ("by user", "item"):
        one, two = (of(each, "click @ all", feature).value for each in (found, asked))
        assert one == pytest.approx(two, abs=1e-5)


def test_too_few_rows_have_no_interval_and_one_class_is_not_measured(bundle, rows):
    few = {name: each[:40] for name, each in rows.items()}
    found = bundle.importance(few, scores=["click @ all"], permutations=2)
    assert all(each.low is None and "an interval takes 50" in each.reason for each in found.drops)
    assert any("no interval, click @ all: " in each for each in found.remarks)
    ones = {**few, "click": np.ones(40, int)}
    found = bundle.importance(ones, scores=["click @ all", "stay @ all"], permutations=2)
    assert found.absent.keys() == {"click @ all"}
    assert "click @ all is not measured: " in str(found)
    assert {each.score for each in found.drops} == {"stay @ all"}


def test_a_score_that_cannot_be_measured_without_a_feature_says_so(bundle, rows, monkeypatch):
    measure = Metric.measure

    def broken(metric, found):
        if len(np.unique(found.prediction)) < 20:
            raise Undefined("all predictions are alike")
        return measure(metric, found)

    monkeypatch.setattr(Metric, "measure", broken)
    table = bundle.encode(rows, split="test")
    item = [slot.name for slot in bundle.schema.fields].index("item")

    def predict(some):
        whole = np.array_equal(some.ids[item], table.ids[item])
        found = {name: values.to_numpy() for name, values in bundle.score(some).to_dict().items()}
        return found if whole else {name: np.full(SIZE, 0.5) for name in found}

    found = importance(
        table, predict, label_groups=lambda _: {}, split="test", scores=["click @ all"]
    )
    assert found.absent == {"click @ all without item": "all predictions are alike"}
    assert {each.feature for each in found.drops} == {"noise", "price"}
    assert "click @ all without item is not measured: all predictions" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["clik @ all"]}, "unknown score 'clik @ all'; did you mean 'click @ all'"),
        ({"scores": "click @ all"}, r"scores must be a list such as \['click @ all'\]"),
        ({"metric": "rmse"}, "a binary task has no metric 'rmse'"),
        ({"metric": "pcoc", "scores": ["click @ all"]}, "neither high nor low"),
        ({"permutations": 1}, "permutations must be a whole number of at least 2, got 1"),
        ({"most_rows": 0}, "most_rows must be a whole number of at least 2, got 0"),
        ({"together": {"a": ["itme"]}}, "together.a: unknown feature 'itme'; did you mean 'item'"),
        ({"together": {"a": "item"}}, "together.a must be a list of features, got 'item'"),
        ({"together": {"a": ["position"]}}, "feature 'position' is set at prediction"),
        ({"together": {"a": ["item"], "b": ["item"]}}, "feature 'item' is in 'a' and 'b'"),
        ({"together": {"noise": ["item", "price"]}}, "outside it are called 'noise'"),
    ],
)
def test_what_it_refuses(bundle, rows, options, message):
    with pytest.raises(pr.ConfigError, match=message):
        bundle.importance(rows, **options)


def test_a_group_takes_its_features_from_those_that_move_together_by_nature():
    schema = pr.Schema([pr.SparseFeature(each) for each in "abcd"], [pr.Task("click")])
    tied = {"by user": ("a", "b", "c")}
    assert groups_of(schema, {}, tied) == {"by user": ("a", "b", "c"), "d": ("d",)}
    found = groups_of(schema, {"mine": ["a", "d"]}, tied)
    assert found == {"mine": ("a", "d"), "by user": ("b", "c")}
    assert groups_of(schema, {"mine": ["a", "b"]}, tied)["c"] == ("c",)


def test_a_number_that_a_kind_of_label_reads_is_permuted_for_the_prediction_alone():
    generator = np.random.default_rng(0)
    size = 400
    duration = generator.uniform(5, 60, size)
    rows = {
        "item": generator.integers(0, 4, size),
        "duration": duration,
        "watch": duration * generator.uniform(0.1, 1, size),
    }
    schema = pr.Schema(
        [pr.SparseFeature("item"), pr.DenseFeature("duration")],
        [pr.Task("watch", kind=pr.WatchTime(duration="duration"))],
    )
    bundle = pr.fit(schema, pr.Model(embed_dim=4), train=rows, valid=rows, epochs=1)
    table = bundle.encode(rows, split="test")
    order = generator.permutation(size)
    moved = permuted(table, ["duration"], order)
    expected = bundle.predict({**rows, "duration": duration[order]})
    assert np.allclose(bundle.score(moved)["watch"], expected["watch"], rtol=1e-5)
    assert np.array_equal(moved.labels, table.labels)
    found = bundle.importance(rows, permutations=2)
    assert of(found, "watch @ all", "duration").value > of(found, "watch @ all", "item").value


@pytest.fixture(scope="module")
def every_kind():
    """A bundle with each kind of feature, wide rows and trees, and its rows."""
    generator = np.random.default_rng(7)
    size = 400
    lists = [generator.integers(0, 9, generator.integers(0, 4)).tolist() for _ in range(size)]
    rows = {
        "item": generator.integers(0, 9, size),
        "hashed": generator.integers(0, 10**12, size),
        "bins": np.where(generator.random(size) < 0.1, np.nan, generator.normal(size=size)),
        "price": generator.lognormal(size=size),
        "seen": lists,
        "text": generator.normal(size=(size, 3)).astype(np.float32).tolist(),
    }
    logit = rows["price"] + np.nan_to_num(rows["bins"]) + rows["item"] % 3 - 2
    rows["click"] = (generator.random(size) < 1 / (1 + np.exp(-logit))).astype(int)
    schema = pr.Schema(
        [
            pr.SparseFeature("item"),
            pr.SparseFeature("hashed", hash=64),
            pr.DenseFeature("bins", encoding="bins", bins=4),
            pr.DenseFeature("price"),
            pr.SequenceFeature("seen"),
            pr.VectorFeature("text"),
        ],
        [pr.Task("click")],
    )
    model = pr.Model(embed_dim=4, wide=pr.Wide(), trees=pr.Trees())
    return pr.fit(schema, model, train=rows, epochs=5, lr=0.05, batch_size=64, seed=1), rows


def test_every_kind_of_feature_is_in_it(every_kind):
    assert {each.kind for each in every_kind[0].schema.features} == set(FEATURES)


@pytest.mark.parametrize("feature", ["item", "hashed", "bins", "price", "seen", "text"])
def test_permuted_parts_of_a_table_are_those_of_a_permuted_column(every_kind, feature):
    bundle, rows = every_kind
    order = np.random.default_rng(1).permutation(len(rows["click"]))
    table = permuted(bundle.encode(rows, split="test"), [feature], order)
    column = rows[feature]
    moved = [column[row] for row in order] if isinstance(column, list) else column[order]
    expected = bundle.predict({**rows, feature: moved})["p_click"]
    assert np.array_equal(bundle.score(table)["p_click"], expected)
    assert not np.array_equal(expected, bundle.predict(rows)["p_click"])


@pytest.mark.parametrize("feature", ["bins", "price"])
def test_a_number_that_is_set_is_that_of_a_column_of_it(every_kind, feature):
    bundle, rows = every_kind
    found = bundle.dependence(rows, [feature], points=4)
    for value, mean in found.select("value", "mean").iter_rows():
        column = np.full(len(rows["click"]), value, dtype=np.float32)
        expected = bundle.predict({**rows, feature: column})["p_click"].mean()
        assert mean == pytest.approx(expected, abs=2e-6)
