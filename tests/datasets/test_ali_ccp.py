import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import roc_auc_score

from polyrank.datasets import ali_ccp as module
from polyrank.datasets.ali_ccp import (
    COLUMNS,
    CROSSES,
    DENSE,
    FULL_ITEMS,
    SPARSE,
    TRUTH,
    ali_ccp,
    preset,
    write_tutorial,
)
from polyrank.datasets.world import Field
from polyrank.errors import ConfigError, DataError
from polyrank.schema import DenseFeature, SparseFeature

# The first line of the tutorial's files.
HEADER = (
    "click,purchase,101,121,122,124,125,126,127,128,129,205,206,207,210,216,508,509,702,853,301,"
    "109_14,110_14,127_14,150_14,D109_14,D110_14,D127_14,D150_14,D508,D509,D702,D853"
)


def whole(**options):
    *frames, schema = ali_ccp(**options)
    return pl.concat([frame.collect() for frame in frames]), schema


@pytest.fixture(scope="module")
def log():
    return whole(rows=200_000, seed=1)[0]


def test_it_has_the_columns_of_the_processed_file_and_the_truth(log):
    assert ",".join(COLUMNS) == HEADER
    assert log.columns == [*COLUMNS, *TRUTH]
    assert (len(SPARSE), len(DENSE)) == (23, 8)
    assert log.null_count().sum_horizontal().item() == 0
    for name in SPARSE:
        assert log[name].dtype == pl.Int32
        assert log[name].min() >= 0
    assert {log[name].min() for name in ("121", "122", "206", *CROSSES)} == {0}
    for name in DENSE:
        assert log[name].dtype == pl.Float32
        assert log[name].is_between(0, 1).all()
        assert log[name].skew() > 0 or name not in CROSSES


def test_the_schema_speaks_of_the_tutorials_columns():
    *_, schema = ali_ccp(rows=100)
    sparse = [each.name for each in schema.features if isinstance(each, SparseFeature)]
    dense = [each.name for each in schema.features if isinstance(each, DenseFeature)]
    assert (tuple(sparse), tuple(dense)) == (SPARSE, DENSE)
    assert schema.keys.columns == ("101",)
    assert [(t.name, t.label, t.given) for t in schema.tasks] == [
        ("click", "click", None),
        ("buy", "purchase", "click"),
    ]
    assert [task.space for task in schema.tasks] == [None, None]  # the model's to say


def test_rates_and_oracles(log):
    assert log["click"].mean() == pytest.approx(0.04, abs=0.003)
    assert log["purchase"].sum() / log["click"].sum() == pytest.approx(0.10, abs=0.012)
    assert log["true_p_click"].mean() == pytest.approx(0.04, abs=0.002)
    assert log["true_p_buy"].sum() / log["true_p_click"].sum() == pytest.approx(0.10, abs=0.005)
    assert 0.65 <= roc_auc_score(log["click"], log["true_p_click"]) <= 0.80
    assert 0.70 <= roc_auc_score(log["purchase"], log["true_p_buy"]) <= 0.85


def test_nobody_purchases_what_they_did_not_click(log):
    assert (log["purchase"] <= log["click"]).all()
    assert set(log["click"].unique()) == set(log["purchase"].unique()) == {0, 1}


def test_the_truth_is_consistent_and_the_labels_follow_it(log):
    product = log["true_p_click"] * log["true_p_buy_given_click"]
    np.testing.assert_allclose(product, log["true_p_buy"], rtol=1e-12)
    for label, truth in (("click", "true_p_click"), ("purchase", "true_p_buy")):
        p, y = log[truth].to_numpy(), log[label].to_numpy()
        for some in np.array_split(np.argsort(p), 5):
            deviation = np.sqrt((p[some] * (1 - p[some])).sum())
            assert abs(y[some].sum() - p[some].sum()) < 4 * deviation


def test_a_cross_without_a_value_has_the_id_0_and_only_such_a_one(log):
    for name in CROSSES:
        assert log[name].eq(0).equals(log[f"D{name}"].eq(0))
        assert 0.1 < log[name].eq(0).mean() < 0.7


def test_equal_features_have_equal_truth(log):
    first = log.group_by(*SPARSE, *DENSE).agg(pl.col(TRUTH).n_unique())
    # numbers are cut to four digits
    assert first.select(pl.col(TRUTH).eq(1).mean()).to_numpy().min() > 0.99


def test_vocabularies_have_the_full_logs_shape():
    full = preset(FULL_ITEMS).fields
    sizes = {name: field.values for name, field in full.items()}
    assert sizes["206"] == sizes["109_14"] == 6_929
    assert (sizes["207"], sizes["216"], sizes["509"]) == (263_942, 106_399, 104_830)
    assert (sizes["121"], sizes["301"]) == (98, 4)
    assert preset(FULL_ITEMS // 10).fields["508"].values == 589
    assert min(field.values for field in preset(1).fields.values()) >= 3
    plan = preset(1_000)
    parts = (*plan.fields.values(), *plan.numbers.values())
    assert sum(each.share for each in parts) + plan.ids + plan.factors == pytest.approx(1)
    assert all(isinstance(each, Field) for each in plan.fields.values())


def test_users_and_items_grow_with_the_rows_or_are_given(log):
    assert log["101"].max() < 1_128
    assert log["205"].max() < 2_209
    few, _ = whole(rows=1_000, users=3, items=2)
    assert few["101"].max() <= 2
    assert few["205"].max() <= 1


def test_the_seed_decides_the_log():
    one, again, other = (whole(rows=2_000, seed=seed)[0] for seed in (1, 1, 2))
    assert_frame_equal(one, again)
    assert not one["true_p_click"].equals(other["true_p_click"])


def test_a_large_log_is_drawn_in_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 300)
    *frames, _ = ali_ccp(rows=1_000)
    assert [frame.collect().height for frame in frames] == [800, 100, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 3}, "3 rows leave a split empty"),
        ({"users": 0}, "users must be a whole number of at least 1, got 0"),
        ({"items": -1}, "items must be a whole number of at least 1, got -1"),
        ({"fractions": (1.0,)}, "three numbers above 0 that sum to 1"),
        ({"source": "here", "seed": 5, "items": 5}, "seed, items belong to a generated log"),
        (
            {"source": "here", "rows": 5},
            "rows belong to a generated log, and here is read",
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ali_ccp(**options)


def test_the_tutorials_files_have_its_columns_and_no_others(tmp_path):
    paths = write_tutorial(tmp_path / "new", rows=400, seed=3)
    assert [path.name for path in paths] == [
        "ali_ccp_train_sample.csv",
        "ali_ccp_val_sample.csv",
        "ali_ccp_test_sample.csv",
    ]
    assert [path.read_text().partition("\n")[0] for path in paths] == [HEADER] * 3
    assert [pl.read_csv(path).height for path in paths] == [200, 100, 100]


def test_a_folder_is_read_as_it_is(tmp_path):
    write_tutorial(tmp_path, rows=400, seed=3)
    *read, schema = ali_ccp(tmp_path)
    *made, known = ali_ccp(rows=400, seed=3, fractions=(0.5, 0.25, 0.25))
    assert schema == known
    for one, other in zip(read, made, strict=True):
        assert one.collect_schema().names() == list(COLUMNS)
        assert_frame_equal(one.collect(), other.select(COLUMNS).collect(), check_dtypes=False)


def test_truth_in_a_file_is_kept_and_other_columns_are_not(tmp_path):
    frame = ali_ccp(rows=100)[0].collect().with_columns(index=1)
    for split in ("train", "val", "test"):
        frame.write_csv(tmp_path / f"ali_ccp_{split}.csv")
        (tmp_path / f"ali_ccp_{split}_sample.csv").touch()  # the whole file comes first
    assert ali_ccp(tmp_path)[1].collect().columns == [*COLUMNS, *TRUTH]


def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        ali_ccp(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no ali_ccp_train\*\.csv"):
        ali_ccp(tmp_path)
    train, valid, _ = write_tutorial(tmp_path)
    (tmp_path / "ali_ccp_train_2.csv").write_text("x")
    with pytest.raises(
        DataError, match=r"several files of one split: ali_ccp_train_2\.csv, ali_ccp_train_sample"
    ):
        ali_ccp(tmp_path)
    (tmp_path / "ali_ccp_train_2.csv").unlink()
    train.write_text(train.read_text().replace("purchase,101", "cvr,user", 1))
    with pytest.raises(DataError, match=r"lacks 2 of the 33 columns .*: purchase, 101"):
        ali_ccp(tmp_path)
    valid.write_text("")
    train.write_text(HEADER + "\n")
    with pytest.raises(DataError, match=r"ali_ccp_val_sample\.csv cannot be read"):
        ali_ccp(tmp_path)
