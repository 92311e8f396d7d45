"""Dense encodings against plain loops of their formulas."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank import spec
from polyrank.errors import DataError, SchemaError
from polyrank.features import dense
from polyrank.features.dense import DenseEncoding, DenseEncodings, bins_for, float32_of
from polyrank.schema import DenseFeature

NAN = float("nan")
KINDS = ["standard", "log", "none", "piecewise_linear", "bins", "values"]
numbers = st.one_of(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    st.integers(-3, 3).map(float),
    st.just(NAN),
)
columns = st.lists(numbers, min_size=1, max_size=60).map(lambda v: np.array(v, dtype=np.float32))


def fitted(kind, values, bins=4, min_count=2):
    values = np.array(values, dtype=np.float32)
    return DenseEncoding.fit(kind, values, bins=bins, min_count=min_count)


# --------------------------------------------------------------------------------- the encodings


def test_standard():
    encoding = fitted("standard", [1, 3, 5, NAN])
    assert encoding.columns == 2
    out = encoding.apply(np.array([1, 3, NAN], np.float32))
    assert out.dtype == np.float32
    assert out[:, 0] == pytest.approx([-1.2247449, 0, 0])
    assert out[:, 1].tolist() == [0, 0, 1]


def test_missing_value_without_missing_in_training_is_the_mean():
    encoding = fitted("standard", [1, 3])
    assert encoding.columns == 1
    assert encoding.apply(np.array([NAN], np.float32)).tolist() == [[0]]


def test_log():
    values = np.array([-10, 0, 10, 1000], np.float32)
    scaled = np.sign(values) * np.log1p(np.abs(values))
    expected = (scaled - scaled.mean()) / scaled.std()
    assert fitted("log", values).apply(values)[:, 0] == pytest.approx(expected, rel=1e-5)


def test_log_is_rounded_once():
    values = np.array([-3e38, -1e-30, -0.0, 1e-45, 0.5, 1_700_000_000], np.float32)
    exact = [math.copysign(math.log1p(abs(v)), v) for v in values.tolist()]
    found = DenseEncoding("log").apply(values)[:, 0]
    np.testing.assert_array_equal(found, np.array(exact, np.float32))


def test_none():
    out = fitted("none", [1, 3, NAN]).apply(np.array([7, NAN], np.float32))
    assert out.tolist() == [[7, 0], [2, 1]]


def test_constant_column_is_not_blown_up():
    encoding = fitted("standard", [0.1] * 7)
    assert encoding.sd == 1
    assert encoding.apply(np.array([0.1, 1.1], np.float32))[:, 0] == pytest.approx([0, 1])


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 3e38, -3e38, 1e-30])
def test_constant_column_has_one_piece(value):
    encoding = fitted("piecewise_linear", [value] * 3)
    assert encoding.columns == 1
    assert encoding.apply(np.array([value], np.float32))[0, 0] in (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_column_without_values_is_logged(kind, caplog):
    (encoding,) = DenseFeature("x", encoding=kind).fit(pl.Series([NAN, NAN])).parts
    assert "'x' has no value in training" in caplog.text
    values = np.array([NAN, 2], np.float32)
    if encoding.looked_up:
        assert encoding.ids(values).tolist() == {"bins": [0, 1], "values": [1, 0]}[kind]
    else:
        assert encoding.columns == 2
        assert encoding.apply(values)[0].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["standard", "log", "piecewise_linear"])
def test_spread_too_narrow_to_divide_by_is_none(kind):
    encoding = fitted(kind, [0, 1e-38, 2e-30])
    assert np.isfinite(encoding.apply(np.array([0, 1, -1e6], np.float32))).all()


# ------------------------------------------------------------------------------ piecewise linear


def paper(x, edges):
    """Gorishniy et al. (2022), eq. 1, as printed."""
    bins = len(edges) - 1
    out = []
    for t in range(1, bins + 1):
        low, high = edges[t - 1], edges[t]
        if x < low and t > 1:
            out.append(0.0)
        elif x >= high and t < bins:
            out.append(1.0)
        else:
            out.append((x - low) / (high - low))
    return out


def test_piecewise_linear_by_hand():
    encoding = DenseEncoding("piecewise_linear", edges=(0.0, 1.0, 3.0))
    out = encoding.apply(np.array([-1, 0.5, 1, 2, 5], np.float32))
    assert out.tolist() == [[-1, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 2]]


@given(columns, columns, st.integers(1, 8))
def test_piecewise_linear_is_the_papers_formula(training, values, bins):
    encoding = fitted("piecewise_linear", training, bins)
    edges = np.array(encoding.edges)
    assert (np.diff(edges) > 0).all()
    assert encoding.columns == len(edges) - 1 + encoding.missing <= bins + 1
    out = encoding.apply(values)
    for x, row in zip(values, out, strict=True):
        filled = encoding.mean if np.isnan(x) else float(x)
        expected = np.array(paper(filled, edges))
        body = row[: len(expected)]
        # the numerator's float32 rounding, over the width of the bin
        slack = 1e-6 * (abs(filled) + np.abs(edges).max()) / np.diff(edges).min()
        assert np.allclose(body, expected, rtol=1e-5, atol=1e-6 + slack)


def test_edges_are_quantiles_each_once():
    encoding = fitted("piecewise_linear", np.arange(101), bins=4)
    assert encoding.edges == (0, 25, 50, 75, 100)
    assert fitted("piecewise_linear", [0] * 99 + [1], bins=4).edges == (0, 1)


# ------------------------------------------------------------------------------------------ bins


def test_bins_by_hand():
    encoding = fitted("bins", np.arange(1, 101), bins=4)
    assert encoding.columns == 0
    assert encoding.rows == 5
    ids = encoding.ids(np.array([NAN, -9, 1, 25, 26, 50, 76, 999], np.float32))
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 1, 1, 1, 2, 2, 4, 4]
    assert np.bincount(encoding.ids(np.arange(1, 101, dtype=np.float32))).tolist() == [0] + [25] * 4


def test_few_values_have_a_bin_each():
    encoding = fitted("bins", [0] * 990 + [1] * 10, bins=32)
    assert encoding.ids(np.array([0, 1, 2], np.float32)).tolist() == [1, 2, 2]


@pytest.mark.parametrize("sign", [1, -1])
def test_value_of_most_rows_does_not_share_its_bin_with_the_rest(sign):
    values = sign * np.concatenate([np.zeros(9900), np.linspace(1, 2, 100)]).astype(np.float32)
    ids = fitted("bins", values, bins=8).ids(values)
    assert set(ids[:9900]).isdisjoint(ids[9900:])


def test_a_value_that_most_rows_share_leaves_the_other_bins_to_the_rest():
    values = np.concatenate([np.zeros(9_600), np.arange(1, 401)])
    encoding = fitted("bins", values, bins=10)
    assert encoding.edges == (0, 50, 100, 150, 200, 250, 300, 350)
    assert fitted("piecewise_linear", values, bins=10).edges == (*encoding.edges, 400)
    middle = np.concatenate([np.zeros(9_600), np.arange(-200, 0), np.arange(1, 201)])
    assert set(fitted("bins", middle, bins=10).edges) > {-1, 0}


@given(columns, st.integers(1, 8))
def test_bins_keep_the_order_of_values(training, bins):
    encoding = fitted("bins", training, bins)
    ids = encoding.ids(training)
    present = ~np.isnan(training)
    assert (ids[~present] == 0).all()
    assert set(ids[present].tolist()) == set(range(1, encoding.rows)) or not present.any()
    assert encoding.rows <= max(bins, 1) + 1
    order = np.argsort(training[present], kind="stable")
    assert (np.diff(ids[present][order]) >= 0).all()


@given(columns, st.integers(1, 8))
def test_a_bin_is_named_by_the_interval_that_its_values_lie_in(training, bins):
    encoding = fitted("bins", training, bins)
    names = encoding.named(encoding.ids(training))
    for value, name in zip(training, names, strict=True):
        if math.isnan(value):
            assert name == "missing"
            continue
        low, high = name.strip("()]").replace("∞", "inf").replace("−", "-").split(", ")
        assert np.float32(low) < value <= np.float32(high)


@given(columns)
def test_a_value_is_named_as_it_is(training):
    encoding = fitted("values", training, min_count=1)
    names = encoding.named(encoding.ids(training))
    for value, name in zip(training, names, strict=True):
        assert name == "missing" if math.isnan(value) else np.float32(name) == value


@pytest.mark.parametrize("bins", [29, 30])
@pytest.mark.parametrize("kind", ["bins", "piecewise_linear"])
def test_the_heaviest_values_keep_their_own_where_not_all_have_room(kind, bins):
    # Zero has half of the rows, and 14 other values have more than a bin each.
    heavy = np.repeat(np.arange(-70, 80, 10), 60)
    values = np.concatenate([np.zeros(760), heavy, np.arange(-9, 12) / 2]).astype(np.float32)
    encoding = fitted(kind, values, bins=bins)
    assert len(encoding.edges) - 2 * (kind == "piecewise_linear") < bins
    assert {-0.5, 0.0} <= set(encoding.edges)  # a knot at 0, and a bin from behind -.5 up to it
    if kind == "bins":
        ids = encoding.ids(values)
        assert set(values[ids == encoding.ids(np.zeros(1, np.float32))]) == {0}


def test_automatic_bins_go_by_the_rows_that_have_a_value():
    present = np.random.default_rng(0).normal(size=1000)
    values = np.concatenate([present, np.full(99_000, np.nan)]).astype(np.float32)
    assert fitted("bins", values, bins="auto") == fitted("bins", values, bins=16)
    counts = [bins_for(rows) for rows in range(0, 120_000, 7)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (4, 48)


# ---------------------------------------------------------------------------------------- values


def test_values_by_hand():
    encoding = fitted("values", [5, 5, -1, -0.0, 0.0, 0.0, 7, NAN], min_count=2)
    assert encoding.columns == 0
    assert str(encoding.edges) == "(0.0, 5.0)"  # and not -0.0
    assert encoding.rows == 4
    ids = encoding.ids(np.array([-0.0, 0, 5, 5.0000005, 7, -1, 9, NAN], np.float32))
    assert ids.dtype == np.int32
    assert ids.tolist() == [1, 1, 2, 0, 0, 0, 0, 3]


def test_a_missing_value_that_training_did_not_have_is_any_other():
    encoding = fitted("values", [5, 5], min_count=1)
    assert encoding.rows == 2
    assert encoding.ids(np.array([5, 6, NAN], np.float32)).tolist() == [1, 0, 0]


@given(columns, columns, st.integers(1, 4))
def test_values_are_those_that_counting_keeps(training, values, least):
    encoding = fitted("values", training, min_count=least)
    present = training[~np.isnan(training)].tolist()
    kept = sorted({v for v in present if present.count(v) >= least})
    assert list(encoding.edges) == kept
    expected = [
        (len(kept) + 1 if encoding.missing else 0) if math.isnan(v)
        else kept.index(v) + 1 if v in kept else 0
        for v in values.tolist()
    ]  # fmt: skip
    assert encoding.ids(values).tolist() == expected


# -------------------------------------------------------------------------------- several of them

THREE = ("piecewise_linear", "bins", "values")


def test_each_encoding_fills_a_slot_of_its_own():
    feature = DenseFeature("x", encoding=list(THREE), bins=4, min_count=2)
    assert feature.encoding == THREE
    assert hash(feature) == hash(DenseFeature("x", encoding=THREE, bins=4, min_count=2))
    assert [(s.name, s.place, s.table, s.unseen) for s in feature.slots] == [
        ("x", "dense", "", False), ("x#bins", "ids", "x#bins", False),
        ("x#values", "ids", "x#values", True),
    ]  # fmt: skip
    assert feature.tables == ("x#bins", "x#values")
    values = np.array([1, 1, 2, 3, 4, NAN, 9], np.float32)
    state = feature.fit(pl.Series(values))
    assert state == DenseEncodings(tuple(fitted(kind, values) for kind in THREE))
    codec = feature.codec({}, state)
    assert (codec.columns, codec.rows) == ({"x": 3}, {"x#bins": 4, "x#values": 3})
    placed = codec.place(values)
    assert list(placed) == ["x", "x#bins", "x#values"]
    assert np.array_equal(placed["x"], state.parts[0].apply(values))
    assert placed["x#bins"].tolist() == [1, 1, 2, 2, 3, 0, 3]
    assert placed["x#values"].tolist() == [1, 1, 0, 0, 0, 2, 0]
    numbers = codec.ordered(placed["x"])
    assert np.isnan(numbers[5])
    assert (np.argsort(numbers[[0, 2, 3, 4, 6]]) == np.arange(5)).all()


def test_one_encoding_is_its_name():
    feature = DenseFeature("x", encoding=["bins"])
    assert feature == DenseFeature("x", encoding="bins")
    assert [slot.name for slot in feature.slots] == ["x"]


@given(
    st.lists(st.sampled_from(KINDS), min_size=1, unique=True), st.integers(1, 50) | st.just("auto"),
    st.integers(1, 50), columns,
)  # fmt: skip
def test_a_feature_and_its_state_survive_their_tables(kinds, bins, min_count, values):
    feature = DenseFeature("x", encoding=kinds, bins=bins, min_count=min_count)
    table = json.loads(json.dumps(spec.to_table(feature)))
    assert spec.from_table(DenseFeature, table, "features.x") == feature
    state = feature.fit(pl.Series(values))
    table = json.loads(json.dumps(spec.to_table(state)))
    assert spec.from_table(DenseEncodings, table, "encoding 'x'") == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": ["bins", "valus"]}, r"'x': unknown encoding 'valus'.*values"),
        ({"encoding": "bin"}, r"'x': unknown encoding 'bin'.*bins"),
        ({"encoding": ["bins", "log", "bins"]}, r"encoding names 'bins' twice"),
        ({"encoding": []}, r"encoding is empty: name at least one"),
        ({"encoding": 3}, r"unknown encoding 3"),
        ({"min_count": 0}, r"min_count must be a whole number of at least 1, got 0"),
        ({"min_count": None}, r"min_count must be a whole number of at least 1, got None"),
        (
            {"bins": "many"},
            r"unless it is 'auto', bins must be a whole number of at least 1, got 'many'",
        ),
        (
            {"bins": None},
            r"unless it is 'auto', bins must be a whole number of at least 1, got None",
        ),
    ],
)
def test_what_no_feature_can_be(options, message):
    with pytest.raises(SchemaError, match=message):
        DenseFeature("x", **options)


# --------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_encoding_is_finite_independent_of_order_and_survives_its_table(kind, data):
    training = data.draw(columns)
    encoding = fitted(kind, training)
    shuffled = data.draw(st.permutations(training.tolist()))
    assert fitted(kind, shuffled) == encoding
    table = json.loads(json.dumps(spec.to_table(encoding)))
    assert spec.from_table(DenseEncoding, table, "encoding") == encoding
    if encoding.looked_up:
        ids = encoding.ids(training)
        assert ids.min() >= 0
        assert ids.max() < encoding.rows
        return
    out = encoding.apply(training)
    assert out.shape == (len(training), encoding.columns)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert encoding.missing == bool(np.isnan(training).any())
    if encoding.missing:
        assert out[:, -1].tolist() == np.isnan(training).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind):
    encoding = fitted(kind, [1, 2, 3])
    none = np.empty(0, np.float32)
    assert encoding.apply(none).shape == (0, encoding.columns)
    assert encoding.ids(none).shape == (0,)


# ------------------------------------------------------------------------------------- a column


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (pl.Series([1, None]), [1, NAN]),
        (pl.Series([1.5, NAN]), [1.5, NAN]),
        (pl.Series([True, False]), [1, 0]),
        (pl.Series([None, None]), [NAN, NAN]),
        (pl.Series(["1.50"]).cast(pl.Decimal(10, 2)), [1.5]),
    ],
)
def test_float32_of(series, expected):
    values = float32_of(series)
    assert values.dtype == np.float32
    assert np.array_equal(values, np.array(expected, np.float32), equal_nan=True)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e39])
def test_infinite_values_are_refused_with_their_count(value):
    with pytest.raises(DataError, match=r"column 'price' has 1 infinite value \("):
        float32_of(pl.Series("price", [1.0, value]))


def test_text_is_refused_with_its_type():
    with pytest.raises(DataError, match="column 'price' must hold numbers, got String") as caught:
        float32_of(pl.Series("price", ["1"]))
    assert "SparseFeature" in str(caught.value)


@pytest.mark.parametrize("edges", [1, 31, 128, 129, 300])
def test_few_and_many_edges_are_counted_alike(edges):
    generator = np.random.default_rng(edges)
    cuts = np.unique(generator.normal(size=edges).astype(np.float32))
    values = np.concatenate([cuts, generator.normal(size=70_000).astype(np.float32), [np.nan]])
    encoding = DenseEncoding("bins", edges=tuple(cuts.tolist()))
    expected = np.searchsorted(cuts, values, side="left") + 1
    expected[-1] = 0
    assert np.array_equal(encoding.ids(values), expected)


@pytest.mark.parametrize("seed", range(30))
def test_heavy_values_are_found_as_by_counting_all(seed):
    generator = np.random.default_rng(seed)
    size, bins = int(generator.integers(1, 300)), int(generator.integers(2, 40))
    values = np.sort(generator.zipf(1.3 + generator.random(), size).clip(0, 90).astype(np.float32))
    distinct, counts = np.unique(values, return_counts=True)
    most = int(generator.integers(1, bins))
    heavy = np.flatnonzero(counts > size / bins)
    heavy = np.sort(heavy[np.argsort(-counts[heavy], kind="stable")[:most]])
    starts, ends = dense._heavy(values, bins, most)
    assert np.array_equal(values[starts], distinct[heavy])
    assert np.array_equal(ends - starts, counts[heavy])
    assert np.array_equal(dense._first_distinct(values, bins), distinct[:bins])


@pytest.mark.parametrize(
    ("kind", "fitted", "message"),
    [
        ("bins", {"edges": (1.0, 1.0)}, "edges of 'bins' must be finite float32 numbers that rise"),
        ("values", {"edges": (1.0, float("nan"))}, "edges of 'values' must be finite"),
        (
            "piecewise_linear",
            {"edges": (0.0, 3.5e38)},
            "edges of 'piecewise_linear' must be finite",
        ),
        (
            "piecewise_linear",
            {"edges": (0.0,)},
            "'piecewise_linear' needs two edges or more, got 1",
        ),
        ("standard", {"sd": 0.0}, "sd above 0, got 0.0 and 0.0"),
        ("log", {"mean": float("inf")}, "mean and sd must be finite float32 numbers"),
    ],
)
def test_what_no_fit_gives_is_refused(kind, fitted, message):
    with pytest.raises(SchemaError, match=message):
        DenseEncoding(kind, **fitted)
