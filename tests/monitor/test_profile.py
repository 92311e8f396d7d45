import json

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.errors import BundleError, ConfigError
from polyrank.monitor.profile import FORMAT, Facet, Profile, bins

SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.SequenceFeature("seen"), pr.DenseFeature("price")],
    [pr.Task("click")],
)


def rows(count, seed):
    generator = np.random.default_rng(seed)
    price = generator.normal(size=count)
    return pl.DataFrame(
        {
            "item": generator.integers(0, 5, count),
            "seen": [[1] * (number % 3) for number in range(count)],
            "price": np.where(np.arange(count) % 10 == 0, np.nan, price),
            "click": np.arange(count) % 2,
        },
        nan_to_null=True,
    )


def fitted(**splits):
    return pr.fit(SCHEMA, pr.Model(), epochs=1, progress=False, **splits)


@pytest.fixture(scope="module")
def bundle():
    return fitted(train=rows(400, 1), valid=rows(200, 2))


def facet(bundle, title):
    (found,) = (each for each in bundle.profile.facets if each.title == title)
    return found


def test_validation_rows_are_counted_where_there_are_any(bundle):
    assert (bundle.profile.split, bundle.profile.rows) == ("valid", 200)
    assert all(sum(each.counts) == 200 for each in bundle.profile.facets)
    titles = [each.title for each in bundle.profile.facets]
    assert titles == ["item", "seen last id", "seen length", "price", "p_click"]


def test_counts_equal_a_plain_count_of_the_raw_rows(bundle):
    valid = rows(200, 2)
    item = facet(bundle, "item")
    expected = [valid.filter(pl.col("item") == int(each)).height for each in item.categories[:5]]
    assert list(item.counts) == [*expected, 0, 0, 0]
    price = facet(bundle, "price")
    present = valid["price"].drop_nulls().to_numpy()
    histogram = np.histogram(present, [-np.inf, *price.edges, np.inf])[0]
    assert list(price.counts) == [*histogram, 20]
    length = facet(bundle, "seen length")
    assert list(length.counts) == [67, 67, 66, 0]
    assert facet(bundle, "seen last id").counts[-1] == 67  # empty


def test_without_validation_rows_an_id_of_one_row_counts_as_unseen():
    train = rows(400, 1).with_columns(item=pl.Series(range(400)))
    profile = fitted(train=train).profile
    assert (profile.split, profile.rows) == ("train", 200)
    item = profile.facets[0]
    assert dict(zip(item.categories, item.counts, strict=True))["unseen"] == 200


def test_a_sampled_log_has_no_profile():
    sampling = pr.Sampling("click", 0.5)
    assert fitted(train=rows(400, 1), valid=rows(200, 2), sampling=sampling).profile is None


def test_it_lies_in_the_bundle_as_json(bundle, tmp_path):
    bundle.save(tmp_path / "b")
    table = json.loads((tmp_path / "b" / "profile.json").read_text())
    assert table["format"] == FORMAT
    assert pr.load(tmp_path / "b").profile == Profile.from_table(table)
    assert pr.load(tmp_path / "b").profile.to_table() == bundle.profile.to_table()


def test_predictions_that_differ_in_their_last_digits_are_in_one_bin():
    values = np.repeat([0.1, 0.2, 0.3], 10)
    noisy = values * (1 + 1e-7 * np.resize([-1, 0, 1], 30))
    made = bins("p", "prediction", noisy)
    assert made.count(values).tolist() == made.count(noisy).tolist() == [10, 10, 10, 0]


def test_a_constant_number_is_one_bin():
    assert bins("price", "number", np.ones(9)).categories == ["any", "missing"]


def test_another_format_is_refused():
    with pytest.raises(BundleError, match=r"has format 9, and this polyrank reads format 1"):
        Profile.from_table({"format": 9})


def test_a_damaged_profile_is_refused():
    with pytest.raises(BundleError, match=r"profile.json is damaged: 'facets'"):
        Profile.from_table({"format": FORMAT})


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"expected 3 categories and counts, got 1 and 1"):
        Facet(name="a", of="number", edges=[1.0], categories=["x"], counts=[1])
    with pytest.raises(ConfigError, match=r"facet 'a': of must be one of"):
        Facet(name="a", of="x", categories=["x"], counts=[1])


def test_a_feature_that_is_set_at_prediction_is_not_watched():
    features = [pr.SparseFeature("item", serving=1), pr.DenseFeature("price")]
    schema = pr.Schema(features, [pr.Task("click")])
    found = pr.fit(schema, pr.Model(), epochs=1, progress=False, train=rows(400, 1))
    assert [each.title for each in found.profile.facets] == ["price", "p_click"]
