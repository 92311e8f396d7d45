"""fit: what it learns, what it keeps, what it refuses."""

import dataclasses
import inspect
import logging
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tests.train.conftest import PLAIN

import polyrank as pr
from polyrank.balance import Balance, BalanceModule
from polyrank.errors import ConfigError, DataError, LeakageWarning, TrainingError
from polyrank.objective.losses import Supervision
from polyrank.schema import Schema, Task

MODEL = pr.Model(trunk=pr.SharedBottom(hidden=[8]), tower=[4], embed_dim=4, dropout=0.1, **PLAIN)


def fitted(funnel, **options):
    train, valid, schema = funnel
    arguments = {"train": train, "valid": valid, "epochs": 6, "lr": 0.02, "batch_size": 128}
    return pr.fit(options.pop("schema", schema), MODEL, **{**arguments, **options})


@pytest.mark.slow
@pytest.mark.parametrize("space", ["all", "click"])
def test_it_learns_what_the_item_decides(space):
    """P(click) rises and P(buy | click) falls along the items; both estimators find both."""
    generator = np.random.default_rng(0)
    item = generator.integers(0, 10, 6000)
    click = (generator.random(6000) < 0.2 + 0.06 * item).astype(int)
    buy = click * (generator.random(6000) < 0.9 - 0.08 * item)
    schema = Schema(
        [pr.SparseFeature("item")], [Task("click"), Task("buy", given="click", space=space)]
    )
    rows = {"item": item, "click": click, "buy": buy}
    model = replace(MODEL, dropout=0)  # which would pull the ends of a small log inwards
    free = pr.LazyAdam(prior=0.0, decay=0.0)  # as would a prior
    bundle = pr.fit(
        schema, model, train=rows, epochs=12, lr=0.01, batch_size=128, embeddings=free,
        schedule=pr.Constant(),
    )  # fmt: skip
    items = np.arange(10)
    found = bundle.predict({"item": items})
    assert np.abs(found["p_click"].to_numpy() - (0.2 + 0.06 * items)).max() < 0.08
    assert np.abs(found["p_buy_given_click"].to_numpy() - (0.9 - 0.08 * items)).max() < 0.12
    assert (found["p_buy"] <= found["p_click"]).all()


def test_same_seed_same_bits_other_seed_others(funnel):
    _, valid, _ = funnel
    one, two, other = fitted(funnel, seed=1), fitted(funnel, seed=1), fitted(funnel, seed=2)
    assert one.predict(valid).equals(two.predict(valid))
    assert not one.predict(valid).equals(other.predict(valid))


def entropy(label):
    rate = np.mean(label)
    return -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_without_stop_the_lowest_normalized_loss_is_kept(funnel, caplog):
    """Each head on its own rows, whatever supervises it, ÷ its base rate's entropy in training."""
    train, valid, schema = funnel
    tasks = [Task("click"), Task("buy", given="click", weight=3.0)]
    caplog.set_level("INFO", logger="polyrank")
    bundle = fitted(funnel, schema=Schema(schema.features, tasks), epochs=25, lr=0.05)
    history = bundle.history
    values = history["valid normalized loss"].to_numpy()
    best = int(values.argmin())
    assert best < 24, "the run must overfit for this to say anything"
    assert history["best"].to_list() == (values == np.minimum.accumulate(values)).tolist()
    assert bundle.kept_epoch == best + 1
    card = replace(bundle, calibrators={}).evaluate(valid)
    clicked = train["buy"][train["click"] == 1]
    click = card.value("click @ all", "log_loss") / entropy(train["click"])
    buy = card.value("buy|click @ click", "log_loss") / entropy(clicked)
    record = history.row(best, named=True)
    assert record["valid click normalized loss"] == pytest.approx(click, rel=1e-5)
    assert record["valid buy|click normalized loss"] == pytest.approx(buy, rel=1e-5)
    assert values[best] == pytest.approx(click + 3 * buy, rel=1e-5)
    own = {
        head: int(history[f"valid {head} normalized loss"].arg_min()) + 1
        for head in ("click", "buy|click")
    }
    said = f"each head's own best: click {own['click']}, buy|click {own['buy|click']}"
    assert f"epoch {best + 1} is kept ({said})" in caplog.text


def test_a_rare_head_counts_by_its_weight(funnel, monkeypatch):
    """What chooses is the weighted sum of the heads' own losses, whatever the terms' say."""
    _, _, schema = funnel
    tasks = [Task("click", weight=2.0), Task("buy", given="click", weight=3.0)]
    click, buy = [0.9, 0.8, 0.95, 0.7], [0.99, 0.95, 0.8, 0.9]  # sums 4.77, 4.45, 4.3, 4.1
    for order, kept in (([0, 1, 2, 3], 4), ([3, 2, 1, 0], 1), ([0, 2, 1], 2)):
        scripted = iter([{"click": click[epoch], "buy": buy[epoch]} for epoch in order])
        monkeypatch.setattr(Supervision, "own_losses", lambda *_, s=scripted: next(s))
        bundle = fitted(funnel, schema=Schema(schema.features, tasks), epochs=len(order))
        assert bundle.kept_epoch == kept


def test_a_head_without_validation_rows_has_no_say_and_it_says_so(funnel, caplog):
    _, valid, _ = funnel
    nobody = {**valid, "click": 0 * valid["click"], "buy": 0 * valid["buy"]}
    history = fitted(funnel, valid=nobody, epochs=1).history
    assert "valid has no row of buy|click @ click: that head has no say" in caplog.text
    assert history["valid normalized loss"][0] == history["valid click normalized loss"][0]
    assert "valid buy|click normalized loss" not in history.columns


def test_where_no_head_has_validation_rows_the_terms_decide(funnel):
    """Nobody knows of clicks, but that nobody bought: buy @ all has rows, and no head has."""
    _, valid, _ = funnel
    unknown = {**valid, "click": [None] * 300, "buy": 0 * valid["buy"]}
    history = fitted(funnel, valid=unknown, epochs=2).history
    assert "valid normalized loss" not in history.columns
    best = int(history["valid total loss"].to_numpy().argmin())
    assert history["best"].to_list()[best]


@pytest.mark.parametrize("schedule", [pr.Plateau(), pr.Plateau(shrink=0.5, patience=2)])
def test_a_plateau_lowers_the_rate_after_epochs_without_a_new_best(funnel, schedule, monkeypatch):
    rates, factor = [], pr.Plateau.factor

    def watched(self, step, steps, improved=()):
        rates.append((len(improved), factor(self, step, steps, improved)))
        return rates[-1][1]

    monkeypatch.setattr(pr.Plateau, "factor", watched)
    history = fitted(funnel, epochs=20, lr=0.05, schedule=schedule).history
    expected, stale, rate = [], 0, 1.0
    for best in [None, *history["best"].to_list()[:-1]]:
        stale = 0 if best is not False else stale + 1
        if stale == schedule.patience:
            rate, stale = rate * schedule.shrink, 0
        expected.append(rate)
    assert rate < 1, "the run must overfit for this to say anything"
    assert [dict(rates)[done] for done in range(20)] == pytest.approx(expected)


def test_a_plateau_without_validation_rows_is_refused(funnel):
    message = "schedule Plateau watches validation rows: valid is missing"
    with pytest.raises(pr.ConfigError, match=message):
        fitted(funnel, valid=None, schedule=pr.Plateau())


def test_stop_keeps_the_best_epoch_of_its_metric(funnel):
    _, valid, _ = funnel
    stop = pr.Stop(score="click @ all", metric="auc", patience=3)
    bundle = fitted(funnel, epochs=40, lr=0.05, stop=stop)
    aucs = bundle.history["valid click @ all auc"].to_numpy()
    best = int(aucs.argmax())
    assert len(aucs) == best + 1 + 3
    assert bundle.evaluate(valid).value("click @ all", "auc") == pytest.approx(aucs[best])


def test_a_metric_owns_its_direction(funnel):
    stop = pr.Stop(score="click @ all", metric="log_loss", patience=2)
    history = fitted(funnel, epochs=40, lr=0.05, stop=stop).history
    losses = history["valid click @ all log_loss"].to_numpy()
    assert int(losses.argmin()) == len(losses) - 1 - 2


def test_stop_may_watch_grouped_auc(funnel):
    stop = pr.Stop(score="click @ all", metric="gauc", patience=2)
    history = fitted(funnel, stop=stop).history
    assert np.isfinite(history["valid click @ all gauc"].to_numpy()).all()


def test_without_validation_the_last_epoch_is_kept_and_it_says_so(funnel, caplog):
    bundle = fitted(funnel, valid=None, epochs=3)
    assert "no validation rows: the last of 3 epochs is kept" in caplog.text
    assert bundle.scorecard is None
    assert bundle.history["best"].to_list() == [True, True, True]
    again = fitted(funnel, valid=None, epochs=3)
    assert again.predict(funnel[1]).equals(bundle.predict(funnel[1]))


def test_test_rows_are_scored_and_change_nothing_else(funnel):
    _, valid, _ = funnel
    plain = fitted(funnel)
    odd = {**valid, "item": [f"new {i}" for i in range(300)]}
    scored = fitted(funnel, test=odd)
    assert scored.scorecard.split == "test"
    assert scored.predict(valid).equals(plain.predict(valid))
    assert scored.history.drop("seconds", "rows_per_second").equals(
        plain.history.drop("seconds", "rows_per_second")
    )


def test_positive_weight_inflates_and_says_so(funnel, caplog):
    _, valid, schema = funnel
    tasks = [Task("click", positive_weight=8.0), schema.tasks[1]]
    heavy = fitted(funnel, schema=Schema(schema.features, tasks, schema.keys))
    assert "task 'click' has positive_weight 8: its probabilities are inflated" in caplog.text
    plain = fitted(funnel)
    raw = {
        name: each.predict(valid, raw=True)["p_click"].mean()
        for name, each in (("heavy", heavy), ("plain", plain))
    }
    assert raw["heavy"] > raw["plain"] + 0.1
    assert "calibration on the validation rows, where they are enough, undoes that" in caplog.text
    assert heavy.predict(valid)["p_click"].mean() == pytest.approx(valid["click"].mean())


def test_empty_batches_are_counted(funnel):
    train, _, schema = funnel
    rare = {**train, "click": [1] + [0] * 898 + [1], "buy": [1] + [0] * 899}
    tasks = [Task("click"), Task("buy", given="click", space="click")]
    bundle = fitted(funnel, schema=Schema(schema.features, tasks), train=rare, valid=None, epochs=1)
    assert bundle.history["train buy|click @ click empty batches"][0] >= 6
    assert bundle.history["train click @ all empty batches"][0] == 0
    assert bundle.history["rows"][0] == 900


def test_sample_weights_reach_the_loss_and_the_metrics(funnel):
    train, valid, schema = funnel
    weighted = Schema(schema.features, schema.tasks, pr.Keys(weight="w"))
    up = {**train, "w": np.where(np.array(train["click"]) == 1, 5.0, 1.0)}
    flat = {**valid, "w": np.ones(300)}
    bundle = fitted(funnel, schema=weighted, train=up, valid=flat)
    plain = fitted(funnel)
    up_mean, plain_mean = (
        each.predict(valid, raw=True)["p_click"].mean() for each in (bundle, plain)
    )
    assert up_mean > plain_mean + 0.1
    assert bundle.scorecard["click @ all"].raw["pcoc"] > 1.2


def test_dropout_and_schedule_are_deterministic(funnel):
    train, valid, schema = funnel
    model = pr.Model(trunk=pr.MMoE(experts=2, hidden=[8]), dropout=0.3, norm="batch")
    options = {"train": train, "valid": valid, "epochs": 2, "schedule": pr.Cosine(warmup=0.1)}
    one, two = (pr.fit(schema, model, **options) for _ in range(2))
    assert one.predict(valid).equals(two.predict(valid))


def test_numpy_scalars_are_plain_in_what_is_saved(funnel, tmp_path):
    bundle = fitted(funnel, seed=np.int64(3), epochs=np.int64(1), lr=np.float32(0.01))
    bundle.save(tmp_path / "b")
    assert pr.load(tmp_path / "b").config["seed"] == 3


def test_threads_are_put_back(funnel):
    before = torch.get_num_threads()
    fitted(funnel, epochs=1, threads=2)
    assert torch.get_num_threads() == before


def test_progress_is_reported(funnel):
    seen = []
    fitted(funnel, epochs=2, batch_size=8, progress=seen.append)
    assert [each.event for each in seen].count("epoch") == 2
    steps = [each for each in seen if each.event == "step"]
    assert [each.step for each in steps] == [50, 100] * 2
    assert steps[0].rows == 400
    assert set(steps[0].losses) == {"click @ all", "buy @ all"}
    assert steps[0].rows_per_second > 0


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (pr.Stop(score="buy @ al"), "stop: unknown score 'buy @ al'; did you mean 'buy @ all'"),
        (pr.Stop(score="buy @ all", metric="auk"), "no metric 'auk'; did you mean 'auc'"),
        (pr.Stop(score="buy @ all", metric="pcoc"), "'pcoc' is best near 1"),
    ],
)
def test_a_stop_that_cannot_be_watched_is_refused(funnel, stop, message):
    with pytest.raises(ConfigError, match=message):
        fitted(funnel, stop=stop)


def test_stop_needs_validation_rows(funnel):
    with pytest.raises(
        ConfigError, match="stop watches 'buy @ all' on validation rows: valid is missing"
    ):
        fitted(funnel, valid=None, stop=pr.Stop(score="buy @ all"))


def test_stop_on_a_score_without_positives_is_refused_before_training(funnel, tmp_path):
    _, valid, _ = funnel
    none = {**valid, "buy": [0] * 300}
    with pytest.raises(
        ConfigError,
        match="stop watches 'auc' of 'buy @ all', and valid has 300 rows and 0 positives for it",
    ):
        fitted(funnel, valid=none, stop=pr.Stop(score="buy @ all"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stop_on_grouped_auc_needs_users_with_both_classes(funnel):
    _, valid, schema = funnel
    stop = pr.Stop(score="click @ all", metric="gauc")
    with pytest.raises(
        ConfigError, match="stop watches 'gauc', and valid has no user key: declare"
    ):
        fitted(funnel, schema=Schema(schema.features, schema.tasks), stop=stop)
    lonely = {**valid, "user": np.arange(300)}
    with pytest.raises(
        ConfigError, match="stop watches 'gauc' of 'click @ all', and valid has 300 rows"
    ):
        fitted(funnel, valid=lonely, stop=stop)


def test_the_scorecard_of_a_run_has_intervals(funnel):
    _, _, schema = funnel
    bundle = fitted(funnel, schema=Schema(schema.features, schema.tasks), epochs=1)
    auc = bundle.scorecard["click @ all"].metrics["auc"]
    assert auc["low"] < auc["value"] < auc["high"]


def test_stop_may_watch_ranked_lists(funnel):
    train, valid, schema = funnel
    keyed = Schema(schema.features, schema.tasks, pr.Keys(request="r"))
    lists = {
        "train": {**train, "r": np.arange(900) // 9},
        "valid": {**valid, "r": np.arange(300) // 9},
    }
    stop = pr.Stop(score="click @ all", metric="ndcg@10")
    bundle = fitted(funnel, schema=keyed, stop=stop, epochs=2, **lists)
    assert "valid click @ all ndcg@10" in bundle.history.columns
    assert 0 < bundle.scorecard.value("click @ all", "ndcg@10") < 1
    with pytest.raises(ConfigError, match="stop watches 'ndcg@10', and valid has no request key: "):
        fitted(funnel, stop=stop)


def test_stop_on_positives_of_weight_zero_is_refused(funnel):
    train, valid, schema = funnel
    weighted = Schema(schema.features, schema.tasks, pr.Keys(weight="w"))
    none = {**valid, "w": 1.0 - np.array(valid["click"])}
    with pytest.raises(
        ConfigError, match="stop watches 'auc' of 'click @ all', and valid has 300 rows"
    ):
        fitted(funnel, schema=weighted, train={**train, "w": np.ones(900)}, valid=none,
               stop=pr.Stop(score="click @ all"))  # fmt: skip


def test_validation_without_an_observed_label_is_refused(funnel):
    _, valid, _ = funnel
    blind = {**valid, "click": [None] * 300, "buy": [None] * 300}
    with pytest.raises(
        DataError, match="valid has no row with an observed label, so it cannot choose"
    ):
        fitted(funnel, valid=blind)


def test_terms_that_validation_does_not_see_are_named(funnel, caplog):
    _, valid, schema = funnel
    tasks = [Task("click"), Task("buy", given="click", space=("all", "click"))]
    unclicked = {**valid, "click": [0] * 300, "buy": [0] * 300}
    fitted(funnel, schema=Schema(schema.features, tasks), valid=unclicked, epochs=1)
    assert "valid has no row of buy|click @ click: its loss leaves it out" in caplog.text


@pytest.mark.parametrize("lr", [1e20, 1e30])
def test_weights_that_the_last_step_broke_are_never_kept(funnel, tmp_path, lr):
    """One step an epoch: no loss after it could tell."""
    for valid in (None, funnel[1]):
        with pytest.raises(
            TrainingError,
            match=r"the logits of 'click' are not finite after epoch 1, step 1: lower",
        ):
            fitted(funnel, valid=valid, batch_size=1000, epochs=1, lr=lr, out=tmp_path / "run",
                   force=(tmp_path / "run").exists())  # fmt: skip
        assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize("device", ["cuda:7", "gpu", "mps"])
def test_a_device_that_is_not_here_is_refused_before_reading(funnel, device):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here: .*Use 'cpu'"):
        fitted(funnel, train="never-read.csv", device=device)


def test_a_negative_seed_is_refused(funnel):
    with pytest.raises(ConfigError, match=r"seed must be a whole number of at least 0 .*, got -1"):
        fitted(funnel, seed=-1)


def test_what_is_no_model_is_refused_with_the_fix(funnel):
    train, _, schema = funnel
    with pytest.raises(ConfigError, match=r"model must be ESMM.* or Model.trunk=MMoE.*, got MMoE"):
        pr.fit(schema, pr.MMoE(), train=train)
    with pytest.raises(ConfigError, match="schema must be a Schema"):
        pr.fit([schema], MODEL, train=train)
    with pytest.raises(ConfigError, match="stop must be a Stop"):
        fitted(funnel, stop="auc")
    with pytest.raises(
        ConfigError, match=r"epochs, unless it is 'auto', must be a whole .* got 1.5"
    ):
        fitted(funnel, epochs=1.5)
    with pytest.raises(ConfigError, match=r"threads must be at most .*, got 20000"):
        fitted(funnel, threads=20000)


def test_the_callers_torch_is_neither_used_nor_changed(funnel):
    _, valid, _ = funnel
    expected = fitted(funnel, epochs=1).predict(valid)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            found = fitted(funnel, epochs=1)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert found.predict(valid).equals(expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_unit_of_the_weights_does_not_matter(funnel):
    train, valid, schema = funnel
    weighted = Schema(schema.features, schema.tasks, pr.Keys(weight="w"))
    found = [
        fitted(funnel, schema=weighted, train={**train, "w": np.full(900, unit)},
               valid={**valid, "w": np.ones(300)}, epochs=1, lr=1e-4)
        for unit in (1.0, 2.0**-13)
    ]  # fmt: skip
    means = [bundle.predict(valid)["p_click"].mean() for bundle in found]
    assert means[0] == pytest.approx(means[1], abs=1e-5)
    assert means[0] == pytest.approx(np.mean(train["click"]), abs=0.05)


def test_the_options_of_fit_are_those_of_training():
    given = {
        name: each.default
        for name, each in inspect.signature(pr.fit).parameters.items()
        if name in {field.name for field in dataclasses.fields(pr.Training)}
    }
    assert pr.Training(**given) == pr.Training()
    assert set(given) == {field.name for field in dataclasses.fields(pr.Training)}


def test_a_balance_of_ones_own_is_used(funnel):
    @dataclasses.dataclass(frozen=True)
    class First(Balance):
        def build(self, terms):
            return FirstModule()

    class FirstModule(BalanceModule):
        def backward(self, losses, shared):
            first = next(iter(losses.values()))
            first.backward()
            return first.detach()

    bundle = fitted(funnel, balance=First(), epochs=2)
    assert bundle.config["train"]["balance"]["class"].endswith("First")


def test_validation_without_positives_is_fine_without_stop(funnel):
    _, valid, _ = funnel
    none = {**valid, "buy": [0] * 300}
    card = fitted(funnel, valid=none, epochs=1).scorecard
    assert "auc" in card["buy @ all"].absent


def test_a_term_that_cannot_be_learned_is_refused_with_the_counts(funnel):
    train, _, _ = funnel
    with pytest.raises(
        DataError, match=r"'buy @ all' has no positives in train \(0 positives in 9"
    ):
        fitted(funnel, train={**train, "buy": [0] * 900})


def test_a_feature_that_equals_a_label_is_refused(funnel):
    train, valid, schema = funnel
    leaky = Schema([*schema.features, pr.SparseFeature("ctcvr")], schema.tasks)
    joint = np.array(train["click"]) * np.array(train["buy"])
    with pytest.raises(DataError, match=r"feature 'ctcvr' equals .*a model would read the label"):
        fitted(funnel, schema=leaky, train={**train, "ctcvr": joint},
               valid={**valid, "ctcvr": valid["buy"]})  # fmt: skip


def test_orphans_are_refused_in_every_labelled_split(funnel):
    _, valid, _ = funnel
    orphan = {**valid, "click": np.where(np.arange(300) == 7, 0, valid["click"])}
    orphan["buy"] = np.where(np.arange(300) == 7, 1, orphan["buy"])
    with pytest.raises(DataError, match="valid: 1 row with 'buy' = 1 where its parent 'click' = 0"):
        fitted(funnel, valid=orphan)
    with pytest.raises(DataError, match="test: 1 row with 'buy' = 1"):
        fitted(funnel, test=orphan)
    assert (
        fitted(funnel, valid=orphan, orphans="drop", epochs=1).scorecard["click @ all"].rows == 299
    )
    assert (
        fitted(funnel, valid=orphan, orphans="zero", epochs=1).scorecard["click @ all"].rows == 300
    )


def test_a_run_that_learned_nothing_says_so(funnel, caplog):
    fitted(funnel, epochs=2)
    assert "diverged" not in caplog.text
    fitted(funnel, epochs=2, lr=50.0)
    (told,) = (each.getMessage() for each in caplog.records if "diverged" in each.getMessage())
    assert re.search(r"kept epoch, [12], .* for 'click @ all' \d.* \(constant 0\.", told)
    assert told.endswith("lower lr (now 50), train longer, or regularise")
    caplog.clear()
    _, valid, _ = funnel
    few = {name: column[:30] for name, column in valid.items()}  # a loss of these is a draw
    fitted(funnel, epochs=2, lr=50.0, valid=few)
    assert "diverged" not in caplog.text


def test_the_kept_epoch_is_said_at_the_end(funnel, caplog):
    caplog.set_level(logging.INFO)
    bundle = fitted(funnel, epochs=3)
    assert f"epoch {bundle.kept_epoch} is kept" in caplog.text
    assert bundle.history["best"][bundle.kept_epoch - 1]


def test_a_loss_that_is_not_finite_stops_with_term_and_step(funnel):
    train, _, schema = funnel
    tasks = [Task("money", kind="regression")]
    money = np.arange(900.0)
    with pytest.raises(
        TrainingError, match=r"'money @ all' is (inf|nan) at epoch 1, step 2: lower"
    ):
        fitted(funnel, schema=Schema(schema.features, tasks), train={**train, "money": money},
               valid=None, lr=1e30)  # fmt: skip


def test_regression_of_a_target_in_the_hundred_thousands(funnel):
    train, valid, schema = funnel
    money = {
        "train": 320_000 + 300 * np.array(train["item"]),
        "valid": 320_000 + 300 * np.array(valid["item"]),
    }
    tasks = [Task("click"), Task("money", kind="regression")]
    bundle = fitted(
        funnel,
        schema=Schema(schema.features, tasks),
        train={**train, "money": money["train"]},
        valid={**valid, "money": money["valid"]},
        epochs=30,
        schedule=pr.Constant(),
        embeddings=pr.LazyAdam(prior=0.0, decay=0.0),
        stop=pr.Stop(score="money @ all", metric="rmse", patience=30),
    )
    assert bundle.scorecard.value("money @ all", "r2") > 0.9
    assert bundle.scorecard.value("click @ all", "auc") > 0.6
    predicted = bundle.predict(valid)["money"].to_numpy()
    assert abs(predicted.mean() - money["valid"].mean()) < 200


def test_sources_of_every_kind_give_the_same_model(funnel, tmp_path):
    train, valid, _ = funnel
    frame = pl.DataFrame(train)
    frame.write_csv(tmp_path / "train.csv")
    frame.write_parquet(tmp_path / "train.parquet")
    sources = [
        train, frame, frame.lazy(), frame.to_pandas(), frame.to_arrow(),
        tmp_path / "train.csv", str(tmp_path / "*.parquet"),
    ]  # fmt: skip
    found = [fitted(funnel, train=source, epochs=1).predict(valid) for source in sources]
    assert all(each.equals(found[0]) for each in found)


def test_a_pandas_frame_is_answered_by_one_with_its_index(funnel):
    _, valid, _ = funnel
    rows = pl.DataFrame(valid).to_pandas().iloc[::-1]
    bundle = fitted(funnel, epochs=1)
    found = bundle.predict(rows)
    assert found.index.equals(rows.index)
    expected = bundle.predict(valid)
    assert list(found.columns) == expected.columns
    np.testing.assert_array_equal(found["p_buy"].to_numpy()[::-1], expected["p_buy"].to_numpy())


def test_ids_that_training_did_not_see_share_one_trained_row(funnel, caplog):
    caplog.set_level(logging.INFO)
    bundle = fitted(funnel, epochs=3, unseen_rate=0.05)
    new = {"user": [-1, 2**40], "item": ["x", None], "price": [1.0, None]}
    predicted = bundle.predict(new)
    assert "unseen or rare ids of 2 rows: user 2, item 1" in caplog.text
    assert predicted.null_count().to_numpy().sum() == 0
    row = bundle.ranker.embed.tables()["item"][0]
    untrained = fitted(funnel, epochs=3, unseen_rate=0.0).ranker.embed.tables()["item"][0]
    start = fitted(funnel, epochs=1, lr=1e-12).ranker.embed.tables()["item"][0]
    torch.testing.assert_close(untrained, start)
    assert (row - start).abs().max() > 0.01


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        (pr.SparseFeature("told"), lambda buy: np.where(buy, "sent", "none")),
        (pr.DenseFeature("told"), lambda buy: 3.0 * buy),
        (pr.DenseFeature("told", encoding="standard"), lambda buy: np.where(buy, 0.1, np.nan)),
        (pr.DenseFeature("told", encoding="piecewise_linear"), lambda buy: 3.0 - buy),
        (pr.DenseFeature("told", encoding=["log", "bins", "values"]), lambda buy: 3.0 * buy),
        (pr.SequenceFeature("told"), lambda buy: [[1, 2] if each else [2] for each in buy]),
    ],
)
def test_a_feature_that_may_state_a_label_is_warned_of(funnel, feature, told):
    train, _, schema = funnel
    wrong = np.arange(len(train["buy"])) % 100 == 0
    train = train | {"told": told(train["buy"].astype(bool) ^ wrong)}
    schema = Schema([*schema.features, feature], schema.tasks, schema.keys)
    with pytest.warns(LeakageWarning, match="feature 'told' may state the label of 'buy") as found:
        pr.fit(schema, MODEL, train=train, epochs=1)
    assert len(found) == 1
