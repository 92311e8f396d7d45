"""How much of the network's answer a head adds to its margin is chosen on validation rows."""

import numpy as np
import pytest

import polyrank as pr
from polyrank.train.loop import SHARES

ROWS, ITEMS = 4_000, 20


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(3)
    item = generator.integers(0, ITEMS, ROWS)
    click = generator.random(ROWS) < np.linspace(0.1, 0.3, ITEMS)[item]
    return {"item": item, "click": click.astype(int)}


def fitted(log, valid=True, **options):
    """Fit items alone: all that labels say is in the margin, and what a network adds is noise."""
    train = {name: column[:2_000] for name, column in log.items()}
    rest = {name: column[2_000:] for name, column in log.items()}
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click", **options)])
    return pr.fit(schema, pr.Model(), train=train, valid=rest if valid else None, epochs=1, lr=0.05)


def test_the_share_is_the_one_that_scores_best(log):
    bundle = fitted(log)
    first = bundle.ranker.first
    (chosen,) = first.share.tolist()
    assert chosen in SHARES
    rest = {name: column[2_000:] for name, column in log.items()}
    losses = {}
    for share in SHARES:
        first.share.fill_(share)
        p, y = bundle.predict(rest, raw=True)["p_click"].to_numpy(), rest["click"]
        losses[share] = -np.mean(np.where(y == 1, np.log(p), np.log1p(-p)))
    assert losses[chosen] == pytest.approx(min(losses.values()), rel=1e-6)
    assert losses[chosen] < losses[1.0]


def test_too_few_labels_of_validation_add_nothing(log):
    """With one purchase to check, whatever says that there are none would be best."""
    positive = np.flatnonzero(log["click"][2_000:])
    few = np.sort(np.concatenate([np.flatnonzero(log["click"][2_000:] == 0), positive[:19]]))
    for rows, chosen in ((few, {0.0}), (np.append(few, positive[19]), set(SHARES))):
        some = {name: np.append(c[:2_000], c[2_000:][rows]) for name, c in log.items()}
        bundle = fitted(some)
        share = bundle.ranker.first.share.item()
        assert share in chosen
        assert bundle.without_network == (("click",) if share == 0 else ())


def test_a_warm_start_moves_the_share_by_its_share_of_the_rows(log):
    """A day's validation rows choose by chance; where they cannot tell, yesterday's share stays."""
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    parts = np.split(np.arange(ROWS), [1_500, 2_000, 2_500])
    first, valid, day, later = ({name: c[rows] for name, c in log.items()} for rows in parts)
    options = {"epochs": 1, "lr": 0.05}
    before = pr.fit(schema, pr.Model(), train=first, valid=valid, **options)
    before.ranker.first.share.fill_(0.5)
    found = pr.fit(schema, pr.Model(), train=day, valid=later, start=before, **options)
    assert found.ranker.first.share.item() in {0.5 + 0.25 * (share - 0.5) for share in SHARES}
    few = {name: column[:60] for name, column in later.items()}
    assert few["click"].sum() < 20
    found = pr.fit(schema, pr.Model(), train=day, valid=few, start=before, **options)
    assert found.ranker.first.share.item() == 0.5


def test_without_validation_rows_all_is_added(log):
    bundle = fitted(log, valid=False)
    assert bundle.ranker.first.share.tolist() == [1.0]
    assert bundle.without_network == ()


def test_a_positive_weight_is_not_taken_out_again(log):
    bundle = fitted(log, positive_weight=10)
    assert bundle.ranker.first.share.tolist() == [1.0]
    rest = {name: column[2_000:] for name, column in log.items()}
    assert bundle.predict(rest, raw=True)["p_click"].mean() > 2 * rest["click"].mean()
