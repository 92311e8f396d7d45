"""Which map is chosen: none where none is needed, and never by the rows it was fitted on."""

import numpy as np
import pytest

from polyrank.calibration import Isotonic, Platt, fitting
from polyrank.calibration.fitting import Calibrator, calibrate
from polyrank.errors import ConfigError

NO_END = (
    "in some of the 5 folds one label is missing or the logit separates the two, so no map has "
    "a best fit"
)


def drawn(seed, rows=20_000, true=lambda z: z - 2):
    """Logits, and labels that a function of the logit gives."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.0, 1.5, rows)
    return logit, (rng.random(rows) < 1 / (1 + np.exp(-true(logit)))).astype(float)


def test_a_shifted_and_stretched_logit_is_brought_back():
    logit, label = drawn(1)
    found = calibrate(2 * logit + 3, label, seed=1)
    assert found.kind == "platt" or found.losses["isotonic"] < found.losses["platt"]
    assert found.reason is None
    assert found.losses["platt"] < found.losses["none"]
    assert np.abs(found.apply(2 * logit + 3) - (logit - 2)).mean() < 0.1
    assert (found.rows, found.positives) == (20_000, int(label.sum()))


def test_a_bent_logit_takes_knots():
    logit, label = drawn(2, true=lambda z: np.where(z > 0, 3 * z, z / 3) - 1)
    found = calibrate(logit, label)
    assert isinstance(found.map, Isotonic)
    assert found.losses["isotonic"] < found.losses["platt"] < found.losses["none"]


def test_a_calibrated_logit_is_mostly_left_alone():
    """A gain above its standard error is rare where there is none to be had."""
    chosen = [calibrate(logit - 2, label) for logit, label in map(drawn, range(30))]
    assert sum(each.map is None for each in chosen) >= 24
    kept = next(each for each in chosen if each.map is None)
    assert kept.reason.startswith(("no candidate has a lower log loss", "the gain of"))


def test_isotonic_needs_a_thousand_positives():
    logit, label = drawn(3, rows=2_000)
    assert label.sum() < 1_000
    assert calibrate(logit, label).losses.keys() == {"none", "platt"}


@pytest.mark.parametrize(("positives", "negatives"), [(49, 500), (500, 49), (0, 10), (0, 0)])
def test_few_of_either_label_give_none_and_the_reason(positives, negatives):
    label = np.repeat([1.0, 0.0], [positives, negatives])
    found = calibrate(np.linspace(-1, 1, len(label)), label)
    assert found.map is None
    assert found.losses == {}
    few, name = (positives, "positives") if positives < 50 else (negatives, "negatives")
    assert found.reason == f"{few} {name}, and at least 50 are needed"


def test_rows_of_weight_zero_are_not_there():
    logit, label = drawn(4, rows=6_000)
    weight = np.ones(6_000)
    weight[::3] = 0
    kept = weight > 0
    with_them = calibrate(logit, label, weight)
    without = calibrate(logit[kept], label[kept])
    assert with_them == without


def test_the_order_of_the_rows_decides_nothing_where_users_make_the_folds():
    logit, label = drawn(5)
    user = np.random.default_rng(0).integers(0, 500, len(logit))
    order = np.random.default_rng(1).permutation(len(logit))
    one = calibrate(logit, label, None, user, seed=3)
    other = calibrate(logit[order], label[order], None, user[order], seed=3)
    assert one.kind == other.kind
    assert one.losses == pytest.approx(other.losses, rel=1e-12)


def test_rows_of_one_user_are_not_taken_for_evidence_of_each_other():
    """Each row twenty times: by row its copies would vouch for it, by user they are one."""
    logit, label = (np.repeat(each, 20) for each in drawn(15, rows=400))
    user = np.repeat(np.arange(400), 20)
    assert calibrate(logit - 2, label).map is not None
    assert calibrate(logit - 2, label, None, user).map is None


def test_one_user_cannot_be_folded():
    logit, label = drawn(7)
    found = calibrate(logit, label, None, np.zeros(len(logit), dtype=np.int64))
    assert found.map is None
    assert found.losses.keys() == {"none"}
    assert found.reason == NO_END


def test_a_candidate_is_judged_on_rows_that_it_did_not_see(monkeypatch):
    """A map that knows its own rows by heart has the best loss on them, and is not taken."""
    seen = []

    class ByHeart(Isotonic):
        least = 50

        @classmethod
        def fit(cls, logit, label, *_):
            seen.append(len(logit))
            knots = tuple(np.unique(logit).tolist())
            labels = dict(zip(logit.tolist(), label.tolist(), strict=True))
            bumps = np.cumsum([0.5 + 20 * labels[each] for each in knots])
            return Isotonic(knots, tuple((bumps - bumps.mean()).tolist()))

    monkeypatch.setattr(fitting, "MAPS", {"by heart": ByHeart})
    logit, label = drawn(8, rows=2_000)
    found = calibrate(logit - 2, label)
    assert found.map is None
    assert sum(seen) == 4 * 2_000


@pytest.mark.parametrize(
    "found",
    [
        Calibrator(Platt(0.5, -1.25), 100, 60, {"none": 0.5, "platt": 0.25}),
        Calibrator(Isotonic((0.0, 1.0), (0.1, 0.7)), 9_000, 1_000, {"none": 0.5}),
        Calibrator(None, 10, 3, {}, "3 positives, and at least 50 are needed"),
    ],
)
def test_a_calibrator_reads_its_own_table(found):
    assert Calibrator.from_table(found.to_table()) == found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "none"}, "buy: the key 'rows' is missing"),
        ({"rows": 1, "positives": 0, "log_loss": {}}, "buy: expected a table with a kind"),
        (
            {"kind": "temperature", "rows": 1, "positives": 0, "log_loss": {}},
            "buy: unknown kind 'temperature'",
        ),
    ],
)
def test_a_damaged_table_is_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        Calibrator.from_table(table, "buy")


def test_inflated_probabilities_of_a_head_that_cannot_rank_are_put_right():
    rng = np.random.default_rng(11)
    z = rng.normal(3, 2, 1_200)
    label = (rng.random(1_200) < 1 / (1 + np.exp(0.1 * (z - 3)))).astype(float)  # falls a little
    found = calibrate(z, label)
    assert found.kind == "platt"
    p = 1 / (1 + np.exp(-found.apply(z)))
    assert p.mean() == pytest.approx(label.mean())


def test_a_logit_that_separates_the_labels_is_left_with_the_reason():
    z = np.arange(200.0)
    found = calibrate(z, (z >= 100).astype(float))
    assert found.kind == "none"
    assert found.reason == NO_END
