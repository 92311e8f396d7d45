"""A warm start: what stays, to the bit, what grows, what is refused."""

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.errors import ConfigError, DataError, SchemaError
from polyrank.train.fit import check_ranks
from polyrank.train.start import Start
from polyrank.train.training import Training

FEATURES = [
    pr.SparseFeature("user", min_count=3),
    pr.SparseFeature("item", embed_dim=6),
    pr.SequenceFeature("seen", shared_with="item"),
    pr.DenseFeature("price", encoding=["standard", "bins"], bins=6),
]
TASKS = [
    pr.Task("click"),
    pr.Task("buy", given="click", space="all"),
    pr.Task("spend", kind="regression", given="buy"),
]
SCHEMA = pr.Schema(FEATURES, TASKS, pr.Keys(time="day"))
MODEL = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), tower=[4], embed_dim=4)


def day(number, rows=600):
    """A day's rows: users and items come and go."""
    rng = np.random.default_rng(number)
    user, item = 10 * number + rng.integers(0, 60, rows), 4 * number + rng.integers(0, 20, rows)
    z = np.sin(user) + np.cos(item)
    click = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    buy = click * (rng.random(rows) < 0.5)
    return pl.DataFrame(
        {
            "user": user, "item": item, "price": rng.lognormal(size=rows),
            "seen": [(4 * number + rng.integers(0, 20, rng.integers(0, 4))).tolist()
                     for _ in range(rows)],
            "day": np.full(rows, number), "click": click, "buy": buy,
            "spend": np.where(buy == 1, 5 + rng.normal(size=rows), None).astype(float),
        }
    )  # fmt: skip


def fit(train, model=MODEL, schema=SCHEMA, **options):
    return pr.fit(
        schema, model, train=train, **{"epochs": 2, "batch_size": 64, "seed": 3, **options}
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Yesterday's run folder."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    fit(day(0), out=folder, valid=day(7))
    return folder


@pytest.fixture(scope="module")
def second(first):
    return fit(day(1), start=first)


@pytest.mark.slow
def test_without_new_rows_predictions_are_the_same_to_the_bit(first, tmp_path):
    before, rows = pr.load(first), day(1)
    none = fit(rows.head(0), start=first, out=tmp_path / "run")
    for bundle in (none, pr.load(tmp_path / "run")):
        assert bundle.predict(rows).equals(before.predict(rows))
        assert [each.rows for each in bundle.learned] == [600, 0]
    later = fit(rows, start=tmp_path / "run")
    assert [each.rows for each in later.learned] == [600, 0, 600]


def test_before_the_first_step_grown_tables_predict_the_same_to_the_bit(first):
    before = pr.load(first)
    origin = Start.of(first).opened()
    vocab = type(before.vocab).fit(day(1), before.schema, origin.before)
    torch.manual_seed(9)
    ranker = MODEL.build(MODEL.layout(before.schema, vocab))
    drawn = ranker.named_weights()["embed.item"].clone()
    origin.begin(ranker, vocab)
    grown = replace(before, vocab=vocab, ranker=ranker.eval())
    assert vocab.rows["item"] > before.vocab.rows["item"]
    encoded = [each.tables["user"].encode(day(0)["user"])[0] for each in (before.vocab, vocab)]
    rows = day(0).filter(encoded[0] == encoded[1])  # the others are no longer rare
    assert 500 < len(rows) < 600
    assert grown.predict(rows).equals(before.predict(rows))
    new = slice(before.vocab.rows["item"], None)
    assert torch.equal(ranker.named_weights()["embed.item"][new], drawn[new])
    assert not ranker.named_weights()["wide.effect.item"][new].any()


def test_ids_of_both_vocabularies_keep_and_get_rows(first, second, tmp_path):
    before = pr.load(first).vocab.tables
    second.save(tmp_path / "bundle")
    again = pr.load(tmp_path / "bundle").vocab.tables
    for table, old in before.items():
        new = again[table]
        assert new.saved().equals(second.vocab.tables[table].saved())
        assert new.values[: len(old.values)].equals(old.values)
        assert len(new.values) > len(old.values)
        assert new.values.is_duplicated().sum() == 0
    for name, least in (("user", 3), ("item", 1)):
        columns = [each[name] for each in (day(0), day(1))]
        if name == "item":
            columns += [
                each["seen"].explode(empty_as_null=False).drop_nulls() for each in (day(0), day(1))
            ]
        counts = pl.concat(columns).value_counts().filter(pl.col("count") >= least)
        found = again[name]
        assert dict(zip(found.values, found.counts, strict=True)) == dict(counts.iter_rows())


def test_the_encodings_and_the_units_stay_and_the_bundle_says_what_it_learned(first, second):
    before = pr.load(first)
    assert second.vocab.states == before.vocab.states
    assert second.targets == before.targets
    one, two = second.learned
    assert one == before.learned[0]
    assert (two.start, two.first, two.last, two.rows) == (before.version, 1, 1, 600)
    assert "1,200 rows, of this run and 1 run before it" in repr(second)


def test_it_ranks_tomorrow_better_than_either_day_alone(first, second):
    def auc(bundle):
        return bundle.evaluate(day(2, rows=6000)).value("click @ all", "auc")

    assert auc(second) > max(auc(pr.load(first)), auc(fit(day(1)))) + 0.01


def test_refitted_encodings_begin_anew(first):
    rows = day(1).with_columns(price=100 * pl.col("price"))
    found = fit(rows, start=Start(run=first, encodings="refitted"))
    before = pr.load(first)
    assert found.vocab.states["price"] != before.vocab.states["price"]
    found.predict(day(2))
    with pytest.raises(ConfigError, match=r"refitted to another number of columns .* keep enc"):
        fit(
            rows.with_columns(price=pl.when(pl.col("item") > 9).then("price")),
            start=Start(run=first, encodings="refitted"),
        )


def test_a_run_folder_has_the_state_of_the_optimisers_and_a_bundle_has_not(first, caplog):
    caplog.set_level(logging.INFO)
    from_run = fit(day(1), start=first)
    assert "the optimisers start anew" not in caplog.text
    from_bundle = fit(day(1), start=first / "bundle")
    assert "a bundle has no state of theirs; start from its run folder" in caplog.text
    one, two = (each.ranker.named_weights()["embed.item"] for each in (from_run, from_bundle))
    assert not torch.equal(one, two)
    caplog.clear()
    fit(day(1), start=first, embeddings=pr.SGD())
    assert "train.embeddings was 'lazy_adam', and is 'sgd'" in caplog.text


def test_a_day_counts_by_its_share_of_all_rows(first, caplog):
    caplog.set_level(logging.INFO)
    before = pr.load(first).ranker.named_weights()

    def moved(**options):
        start = Start(run=first / "bundle", **options)
        return fit(day(1, rows=200), start=start).ranker.named_weights()

    auto, whole, forgets = moved(), moved(rate=1.0), moved(retain=0.5)
    assert "25 % of the rows that count are new; learning rates are times 0.5, and" in caplog.text
    same = moved(rate=0.5)
    assert all(torch.equal(auto[name], same[name]) for name in auto)
    dense = [name for name in before if name.startswith("trunk")]
    away = [
        sum(float((each[name] - before[name]).square().sum()) for name in dense)
        for each in (auto, forgets, whole)
    ]
    assert away == sorted(away)


def test_one_bundle_in_memory_or_in_a_folder_gives_the_same_bits(first):
    found = [fit(day(1), start=each) for each in (pr.load(first), first / "bundle")]
    one, two = (each.ranker.named_weights() for each in found)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert found[0].version == found[1].version or found[0].config != found[1].config


def test_a_resumed_warm_start_has_the_same_bits(first, tmp_path):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.event == "epoch":
            raise Stopped

    straight = fit(day(1), start=first, out=tmp_path / "straight")
    with pytest.raises(Stopped):
        fit(day(1), start=first, out=tmp_path / "broken", progress=stop)
    resumed = fit(day(1), start=first, out=tmp_path / "broken", resume=True)
    one, two = (each.ranker.named_weights() for each in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert straight.version == resumed.version


def test_rows_that_were_learned_are_refused(first, second):
    with pytest.raises(DataError, match="has learned rows up to 0: they would count twice"):
        fit(pl.concat([day(0), day(1)]), start=first)
    with pytest.raises(DataError, match="has learned rows up to 1"):
        fit(day(1), start=second)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([*FEATURES, pr.SparseFeature("shop")], "feature 'shop' is not in the bundle"),
        (FEATURES[:-1], "feature 'price' of the bundle that the run starts from is missing"),
        ([FEATURES[1], FEATURES[0], *FEATURES[2:]], "the features were in the order user, item"),
        ([replace(FEATURES[0], hash=9, min_count=1), *FEATURES[1:]], "feature 'user' was "),
    ],
)
def test_other_features_are_refused(first, features, message):
    with pytest.raises(SchemaError, match=message):
        fit(day(1), start=first, schema=pr.Schema(features, TASKS, pr.Keys(time="day")))


def test_other_tasks_and_models_are_refused(first):
    with pytest.raises(SchemaError, match=r"task 'spend' of the bundle .* is missing: put it b"):
        fit(day(1), start=first, schema=pr.Schema(FEATURES, TASKS[:2], pr.Keys(time="day")))
    other = replace(MODEL, tower=[5])
    with pytest.raises(ConfigError, match=r"model.tower was \[4\], and is \[5\]: learned weights"):
        fit(day(1), other, start=first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": 3}, "run must be a run folder, a bundle folder or a Bundle, got 3"),
        ({"run": "a", "encodings": "kept"}, "must be 'frozen' or 'refitted', got 'kept'"),
        ({"run": "a", "retain": 0}, "retain must be a number above 0 and at most 1, got 0"),
        ({"run": "a", "rate": 0}, "rate, unless it is 'auto', must be a number above 0, got 0"),
        ({"run": "a", "rate": "slow"}, "rate, unless it is 'auto', must be a .*, got 'slow'"),
    ],
)
def test_a_start_of_another_kind_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Start(**options)


def test_a_bundle_that_was_in_memory_cannot_be_opened_again(first, tmp_path):
    found = fit(day(1), start=pr.load(first), out=tmp_path / "run")
    start = Start.from_table(found.config["start"], tmp_path)
    with pytest.raises(ConfigError, match="a bundle in memory: save it, and name its folder"):
        start.opened()


def test_several_processes_are_refused():
    with pytest.raises(ConfigError, match="start is of a single process: train in one process"):
        check_ranks(MODEL, Training(), Start(run="a"))


def test_what_is_no_start_is_refused():
    with pytest.raises(ConfigError, match="a run folder, a bundle folder or a Bundle, got 7"):
        fit(day(0), start=7)


def test_encoded_rows_are_cached_by_the_bundle_that_they_grow(first, second, tmp_path, caplog):
    day(2).write_parquet(tmp_path / "log.parquet")
    caplog.set_level(logging.INFO)
    found = []
    for number, start in enumerate([second, second, first]):
        out = tmp_path / str(number)
        found.append(fit(str(tmp_path / "log.parquet"), start=start, out=out))
    assert caplog.text.count("encoded rows of an earlier run are used") == 1
    one, two, other = (each.vocab.tables["item"] for each in found)
    assert one.saved().equals(two.saved())
    assert not one.saved().equals(other.saved())
    assert found[0].predict(day(3)).equals(found[1].predict(day(3)))


def test_a_log_larger_than_memory_grows_the_same_vocabularies(first, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    day(1, rows=30_000).write_parquet(tmp_path / "log.parquet")
    whole, streamed = (
        fit(
            str(tmp_path / "log.parquet"),
            start=first,
            out=tmp_path / memory / "run",
            memory=memory,
            epochs=1,
            batch_size=1024,
        )
        for memory in ("1GiB", "1MiB")
    )
    assert "encoded by chunks" in caplog.text
    for name, table in whole.vocab.tables.items():
        assert streamed.vocab.tables[name].saved().equals(table.saved())
    assert streamed.vocab.states == whole.vocab.states
