"""A study shared by processes that may die: what is proposed, counted and taken back."""

import subprocess
import sys

import pytest

from polyrank.tune.space import Searched
from polyrank.tune.spec import Choices, Range
from polyrank.tune.study import JOURNAL, Study, given, whole

SPACE = (
    Searched("train.lr", Range(low=1e-3, high=1e-2, log=True), 3e-3),
    Searched("model.trunk", Choices(({"kind": "a"}, {"kind": "b"}, False)), False),
    Searched("model.tower", Range(low=1, high=5), 9),
)


def study(folder, seed=3, **options):
    return Study(folder, SPACE, **{"higher": True, "prune": True, "seed": seed} | options)


def value(changes):
    return changes["model.tower"] - 100 * abs(changes["train.lr"] - 5e-3)


def finish(of, trials, before=lambda _: None):
    """Run trials of four epochs whose objective is known, up to so many."""
    while (running := of.begin(trials)) is not None:
        if before(running.number):
            running.abandon()
            continue
        for epoch in range(1, 5):
            if running.report(epoch, value(running.changes) + epoch / 100):
                running.end("pruned", 1.0)
                break
        else:
            running.end("complete", 1.0)
    return [each.changes for each in of.finished()]


def test_the_first_trial_is_the_file_as_it_is_where_the_space_has_it(tmp_path):
    first = finish(study(tmp_path), 2)[0]
    assert first["train.lr"] == 3e-3
    assert first["model.trunk"] is False
    assert 1 <= first["model.tower"] <= 5  # 9 is outside


def test_the_same_seed_proposes_the_same_and_another_something_else(tmp_path):
    found = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        (tmp_path / name).mkdir()
        found.append(finish(study(tmp_path / name, seed), 12))
    assert found[0] == found[1] != found[2]


def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(tmp_path):
    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    straight = finish(study(tmp_path / "straight"), 12)
    finish(study(tmp_path / "broken"), 5)
    left = iter([6])
    broken = finish(study(tmp_path / "broken"), 12, before=lambda n: n == next(left, None))
    assert broken == straight


def test_a_value_is_its_best_epoch_and_the_poor_end_early(tmp_path):
    of = study(tmp_path)
    for number in range(6):
        running = of.begin(6)
        level = 1.0 if number < 5 else 0.0
        pruned = [running.report(epoch, level + (epoch == 2)) for epoch in (1, 2)]
        assert pruned == [False, number == 5]  # the first epoch prunes nobody
        running.end("complete" if number < 5 else "pruned", 0.5)
    assert [each.value for each in of.finished()] == [2.0] * 5 + [1.0]
    assert of.finished()[-1].state == "pruned"
    (tmp_path / "lowest").mkdir()
    lowest = study(tmp_path / "lowest", higher=False)
    running = lowest.begin(2)
    running.report(1, 3.0)
    running.report(2, 2.0)
    running.end("complete", 0.5)
    assert lowest.finished()[0].value == 2.0


def test_without_pruning_every_trial_runs_to_its_end(tmp_path):
    of = study(tmp_path, prune=False)
    for level in (5.0, 5.0, 5.0, 5.0, 5.0, 0.0):
        running = of.begin(6)
        assert [running.report(epoch, level) for epoch in (1, 2, 3)] == [False] * 3
        running.end("complete", 0.5)


def test_a_failed_trial_counts_and_keeps_its_reason(tmp_path):
    of = study(tmp_path)
    of.begin(2).end("failed", 0.1, "the loss is nan")
    (found,) = of.finished()
    assert (found.state, found.value, found.reason) == ("failed", None, "the loss is nan")
    assert str(found) == "trial 0: the loss is nan"
    assert of.begin(2) is not None


def test_two_processes_never_try_more_than_was_asked(tmp_path):
    one, two = study(tmp_path), study(tmp_path)
    first, second = one.begin(2), two.begin(2)
    assert (first.number, second.number) == (0, 1)
    assert one.begin(2) is two.begin(2) is None
    second.end("complete" if second.report(1, 1.0) is None else "pruned", 0.1)
    first.abandon()  # as if it had died
    again = two.begin(2)
    assert again.changes == first.changes
    again.report(1, 2.0)
    again.end("complete", 0.1)
    assert two.begin(2) is None
    assert not two.wait()
    assert [each.number for each in two.finished()] == [1, 2]


def test_a_killed_writer_leaves_nothing_that_stops_the_others(tmp_path):
    finish(study(tmp_path), 3)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":')
    assert len(finish(study(tmp_path), 5)) == 5
    whole(tmp_path / JOURNAL)
    assert (tmp_path / JOURNAL).read_bytes().endswith(b"}\n")


def test_importance_needs_complete_trials_that_differ(tmp_path):
    of = study(tmp_path, prune=False)
    finish(of, 5)
    assert of.importance() == {}
    finish(of, 30)
    found = of.importance()
    assert set(found) == {each.key for each in SPACE}
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_number_has_few_digits_and_stays_inside():
    lr = SPACE[0]
    assert given(lr, 0.00234567) == 0.00235
    third = Searched("x", Range(low=0.0, high=1 / 3), 0.1234567)
    assert given(third, 0.33331) == 0.333
    assert given(third, 1 / 3) <= 1 / 3
    assert given(third, 0.1234567) == 0.1234567  # the file's own


@pytest.mark.slow
def test_only_the_study_knows_optuna():
    code = "import sys, polyrank.config, polyrank.cli.tune; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
