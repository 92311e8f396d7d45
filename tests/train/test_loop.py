"""One thread makes the next item; it ends with the generator, and swallows nothing."""

import threading

import pytest

from polyrank.train.loop import ahead


def threads():
    return [each for each in threading.enumerate() if each.name.startswith("polyrank-prefetch")]


def test_items_come_in_order_and_the_thread_ends():
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead(iter([None, 0, []]))) == [None, 0, []]
    assert not threads()


def test_a_generator_that_is_closed_early_leaves_no_thread():
    items = ahead(iter(range(100)))
    assert next(items) == 0
    assert len(threads()) == 1
    items.close()
    assert not threads()


def test_an_exception_of_an_item_is_raised_in_its_turn():
    def broken():
        yield 1
        raise ZeroDivisionError("the second")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="the second"):
        next(items)
    assert not threads()


def test_an_exception_of_the_user_leaves_no_thread(funnel, monkeypatch):
    import polyrank as pr
    from polyrank.train import loop

    monkeypatch.setattr(loop, "PREFETCH_ROWS", 1)
    monkeypatch.setattr(loop.os, "cpu_count", lambda: 8)
    train, valid, schema = funnel
    seen = []

    def stop(progress):
        seen.append(progress)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pr.fit(schema, pr.ESMM(tower=[4]), train=train, valid=valid, batch_size=10, progress=stop)
    assert seen[0].event == "step"  # in the middle of an epoch
    assert not threads()


def test_prefetched_or_not_the_weights_are_the_same(funnel, monkeypatch):
    import polyrank as pr
    from polyrank.train import loop

    train, valid, schema = funnel
    found = []
    for rows in (1, 10_000):
        monkeypatch.setattr(loop, "PREFETCH_ROWS", rows)
        monkeypatch.setattr(loop.os, "cpu_count", lambda: 8)
        bundle = pr.fit(
            schema, pr.ESMM(tower=[4]), train=train, valid=valid, batch_size=64, epochs=2,
            unseen_rate=0.05,
        )  # fmt: skip
        found.append(bundle.predict(valid))
    assert found[0].equals(found[1])


def test_each_epoch_says_how_far_the_terms_gradients_agree(funnel, monkeypatch):
    """Beside any balance, and without a change of any weight."""
    import polyrank as pr
    from polyrank.train import loop

    train, valid, schema = funnel
    options = {"train": train, "valid": valid, "batch_size": 64, "epochs": 2}
    bundle = pr.fit(schema, pr.Model(tower=[4]), **options)
    (pair,) = [name for name in bundle.history.columns if name.startswith("cosine ")]
    assert pair == "cosine click @ all · buy @ all"
    assert bundle.history[pair].is_between(-1, 1).all()
    assert bundle.history[pair].n_unique() == 2
    monkeypatch.setattr(loop, "measured_steps", lambda _: range(0))
    unmeasured = pr.fit(schema, pr.Model(tower=[4]), **options)
    assert pair not in unmeasured.history.columns
    assert unmeasured.predict(valid).equals(bundle.predict(valid))


def test_cosines_go_on_from_within_an_epoch(funnel, tmp_path):
    import polyrank as pr

    train, _, schema = funnel
    options = {"train": train, "batch_size": 16, "epochs": 1, "checkpoint": pr.Checkpoint(steps=20)}
    straight = pr.fit(schema, pr.Model(tower=[4]), **options)

    class Interrupted(Exception):
        pass

    def interrupt(progress):
        if progress.event == "checkpoint" and progress.step == 40:
            raise Interrupted

    with pytest.raises(Interrupted):
        pr.fit(schema, pr.Model(tower=[4]), out=tmp_path / "r", progress=interrupt, **options)
    resumed = pr.fit(schema, pr.Model(tower=[4]), out=tmp_path / "r", resume=True, **options)
    pair = "cosine click @ all · buy @ all"
    assert resumed.history[pair].to_list() == straight.history[pair].to_list()
