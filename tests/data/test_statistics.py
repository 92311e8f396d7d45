"""What each term has to learn from."""

import numpy as np
import polars as pl
import pytest

from polyrank.data.statistics import (
    look_ups,
    refuse_unusable,
    term_labels,
    term_statistics,
)
from polyrank.data.table import encode
from polyrank.data.vocab import Vocab
from polyrank.errors import DataError
from polyrank.layout import Layout
from polyrank.schema import DenseFeature, Keys, Schema, SequenceFeature, SparseFeature, Task
from polyrank.terms import populations

NAN = float("nan")
TASKS = [
    Task("click"),
    Task("buy", given="click", space=("all", "click")),
    Task("spend", kind="regression", given="buy"),
]
LOG = {
    "click": [1, 1, 1, 0, 0, None],
    "buy": [1, 1, 0, None, 0, 1],
    "spend": [10, 30, None, None, None, 5],
    "w": [1, 3, 1, 1, 2, 4],
}


def table_of(tasks=TASKS, weighted=False, **changes):
    columns = LOG | changes
    rows = len(columns["click"])
    schema = Schema([SparseFeature("item")], tasks, Keys(weight="w" if weighted else None))
    frame = pl.DataFrame({"item": [1] * rows, **columns})
    return encode(frame, schema, Vocab.fit(frame, schema))


def counts(statistics):
    return {name: (each.rows, each.positives) for name, each in statistics.items()}


def test_rows_and_positives_by_hand():
    assert counts(term_statistics(table_of())) == {
        "click @ all": (5, 3),
        "buy @ all": (5, 2),  # 0 where click is 0 and buy is null; null where click is null
        "buy|click @ click": (3, 2),
        "spend|buy @ buy": (2, None),
    }


def test_mean_and_deviation():
    statistics = term_statistics(table_of())
    buy = statistics["buy @ all"]
    assert (buy.weight, buy.weight_share, buy.mean) == (5, 5 / 6, 0.4)
    assert buy.sd == pytest.approx(np.sqrt(0.4 * 0.6))
    spend = statistics["spend|buy @ buy"]
    assert (spend.mean, spend.sd) == (20, 10)


def test_sample_weights():
    statistics = term_statistics(table_of(weighted=True))
    buy = statistics["buy @ all"]
    assert (buy.rows, buy.positives, buy.weight) == (5, 2, 8)
    assert buy.weight_share == 8 / 6
    assert buy.mean == 0.5
    spend = statistics["spend|buy @ buy"]
    assert spend.mean == 25
    assert spend.sd == pytest.approx(np.sqrt((15**2 + 3 * 5**2) / 4))


def test_labels_of_every_scored_population():
    table = table_of()
    found = {each.name: term_labels(table, each).tolist() for each in populations(table.schema)}
    expected = {
        "click @ all": [1, 1, 1, 0, 0, NAN],
        "buy @ all": [1, 1, 0, 0, 0, NAN],
        "buy|click @ click": [1, 1, 0, NAN, NAN, NAN],
        "spend|buy @ buy": [10, 30, NAN, NAN, NAN, NAN],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(found[name], values, equal_nan=True), name


def test_usable_terms_are_not_refused():
    table = table_of()
    refuse_unusable(term_statistics(table), table.schema)


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        (
            [Task("click")],
            {"click": [None] * 6},
            "term 'click @ all' has no usable rows in valid (no row has an observed label 'click')",
        ),
        (
            TASKS,
            {"spend": [None] * 6},
            "term 'spend|buy @ buy' has no usable rows in valid (no row has an observed label "
            "'spend' where 'buy' happened)",
        ),
        (
            [Task("click")],
            {"click": [0] * 6},
            "term 'click @ all' has no positives in valid (0 positives in 6 usable rows)",
        ),
        (
            [Task("click"), Task("buy", given="click", space="click")],
            {"buy": [1, 1, None, None, 0, None]},
            "term 'buy|click @ click' has no negatives in valid (2 positives in 2 usable rows)",
        ),
    ],
)
def test_unusable_terms_are_refused_with_the_counts(tasks, changes, message):
    table = table_of(tasks, **changes)
    with pytest.raises(DataError) as caught:
        refuse_unusable(term_statistics(table), table.schema, "valid")
    assert str(caught.value).startswith(message)


def test_term_whose_rows_weigh_nothing_is_refused():
    table = table_of(weighted=True, w=[0] * 6)
    with pytest.raises(DataError, match=r"'click @ all' has no usable rows in train \(all 5 have"):
        refuse_unusable(term_statistics(table), table.schema)


def test_positives_that_weigh_nothing_are_none():
    table = table_of([Task("click")], weighted=True, w=[0, 0, 0, 1, 1, 1])
    with pytest.raises(DataError) as caught:
        refuse_unusable(term_statistics(table), table.schema)
    assert str(caught.value).startswith(
        "term 'click @ all' has no positives of weight above 0 in train (3 positives in 5 usable "
        "rows, 0 in the 2 of weight above 0): a binary term needs both labels"
    )


def test_negatives_that_weigh_nothing_are_none():
    table = table_of([Task("click")], weighted=True, w=[2, 1, 1, 0, 0, 1])
    message = r"no negatives of weight above 0 in train .* 3 in the 3 of weight above 0\)"
    with pytest.raises(DataError, match=message):
        refuse_unusable(term_statistics(table), table.schema)


@pytest.mark.parametrize(("label", "missing"), [(1, "negatives"), (0, "positives")])
def test_one_label_is_told_whatever_the_rounding_of_its_weights(label, missing):
    rows = 1000
    for seed in range(20):  # about every second mean of labels that are all 1 is below 1
        weights = np.random.default_rng(seed).lognormal(sigma=9, size=rows)
        table = table_of([Task("click")], weighted=True, **ones(rows, label), w=weights)
        with pytest.raises(DataError, match=rf"has no {missing} in train \("):
            refuse_unusable(term_statistics(table), table.schema)


def ones(rows, label):
    return {"click": [label] * rows, "buy": [0] * rows, "spend": [0] * rows}


def log_of_ids(rows=600):
    rng = np.random.default_rng(5)
    lists = [rng.integers(0, 6, length).tolist() for length in rng.integers(0, 4, rows)]
    frame = pl.DataFrame(
        {
            "item": rng.integers(0, 6, rows),
            "seen": lists,
            "last": lists,
            "price": rng.random(rows),
            "click": rng.integers(0, 2, rows),
        }
    )
    schema = Schema(
        [
            SparseFeature("item"),
            SequenceFeature("seen", shared_with="item"),
            SequenceFeature("last", pooling="last"),
            DenseFeature("price", encoding="bins", bins=4),
        ],
        [Task("click")],
    )
    vocab = Vocab.fit(frame, schema)
    return encode(frame, schema, vocab), vocab


def counted(table, vocab, epochs, rate):
    """Count what batches look up, the last of a bag where it alone is."""
    schema = table.schema
    where = Layout(schema, vocab, dict.fromkeys(vocab.rows, 2))
    found = {slot.name: np.zeros(vocab.rows[slot.table]) for slot in schema.lookups}
    for epoch in range(epochs):
        for each in table.batches(where, 50, shuffle=True, epoch=epoch, unseen_rate=rate):
            for slot, ids, first in zip(schema.fields, each.ids, where.offsets, strict=True):
                np.add.at(found[slot.name], ids - first, 1 / epochs)
            for slot, bag, first in zip(schema.bags, each.bags, where.bag_offsets, strict=True):
                for low, high in zip(bag.offsets[:-1], bag.offsets[1:], strict=True):
                    low = max(low, high - 1) if slot.pooling == "last" else low
                    np.add.at(found[slot.name], bag.ids[low:high] - first, 1 / epochs)
    return found


def test_look_ups_are_those_of_an_epoch():
    table, vocab = log_of_ids()
    found, expected = look_ups(table, vocab.rows), counted(table, vocab, 1, 0.0)
    assert list(found) == ["item", "price", "seen", "last"]
    for name, count in expected.items():
        np.testing.assert_array_equal(found[name], count)
        assert found[name].dtype == np.float64


def test_look_ups_expect_id_dropout_in_row_0():
    table, vocab = log_of_ids()
    rate, epochs = 0.2, 40
    found, mean = look_ups(table, vocab.rows, rate), counted(table, vocab, epochs, rate)
    for name, count in found.items():
        assert count.sum() == pytest.approx(mean[name].sum())
        spread = 5 * np.sqrt(count.max() * rate / epochs)  # of a binomial count's mean
        np.testing.assert_allclose(mean[name], count, atol=spread)
    assert found["item"][0] == pytest.approx(0.2 * 600)
    np.testing.assert_array_equal(found["price"], look_ups(table, vocab.rows)["price"])
