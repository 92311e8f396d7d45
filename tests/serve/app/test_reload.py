"""What a reload says and counts, whatever comes of it."""

import asyncio
import logging

import polars as pl
import pytest

import polyrank as pr
from polyrank.serve.app.limits import Bodies, Limits
from polyrank.serve.app.models import Model, Models
from polyrank.serve.app.reload import Reloader
from polyrank.serve.app.telemetry import Telemetry
from polyrank.serve.export.write import export


@pytest.fixture
def models(run_folder, exported):
    return Models.open([f"main={run_folder(exported)}"], 100)


@pytest.fixture
def reloaded(models, caplog):
    """Reload once in a loop; return the telemetry and what was logged."""
    telemetry = Telemetry(Bodies(Limits()))
    telemetry.serves("main", models.first.current.engine)

    def call():
        async def work():
            reloader = Reloader(models, telemetry)
            await reloader.reload(models.values())
            reloader.stop()

        caplog.clear()
        caplog.set_level(logging.INFO, "polyrank")
        asyncio.run(work())
        return telemetry, caplog.records

    return call


def counts(telemetry):
    return {outcome: count for (_, outcome), count in telemetry.reloads.items()}


def test_each_outcome_is_logged_and_counted(reloaded, models, run_folder, exported, later):
    before = models.first.current.version
    telemetry, (record,) = reloaded()
    assert counts(telemetry) == {"loaded": 0, "same": 1, "refused": 0}
    assert (record.levelname, record.getMessage()) == ("INFO", "the bundle is the same")
    run_folder(later)
    telemetry, (record,) = reloaded()
    after = pr.Engine(later).version
    assert counts(telemetry) == {"loaded": 1, "same": 1, "refused": 0}
    assert telemetry.versions == {"main": after}
    assert record.getMessage() == "the bundle was replaced"
    assert record.fields.pop("seconds") >= 0
    assert record.fields == {"model": "main", "version": after, "before": before}
    (run_folder(exported) / "bundle" / "config.toml").unlink()
    telemetry, (record,) = reloaded()
    assert counts(telemetry) == {"loaded": 1, "same": 1, "refused": 1}
    assert telemetry.versions == {"main": after}
    assert record.levelname == "ERROR"
    assert record.getMessage() == "the new bundle is refused, and the one before goes on"
    assert record.fields["version"] == after
    assert "config.toml is missing" in record.fields["error"]


def test_an_error_that_nobody_expects_ends_nothing(reloaded, models, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("in a library")

    before = models.first.current
    monkeypatch.setattr("polyrank.serve.app.models.warm", fails)
    telemetry, (trace, record) = reloaded()
    assert trace.exc_info
    assert record.fields["error"] == "ZeroDivisionError('in a library')"
    assert counts(telemetry)["refused"] == 1
    assert models.first.current is before


def test_a_bundle_that_asks_for_other_columns_is_taken_with_a_warning(
    reloaded, run_folder, exported, bundle, rows, tmp_path
):
    schema = pr.Schema(
        [pr.SparseFeature("user"), pr.DenseFeature("margin")], bundle.schema.tasks[:1]
    )
    other = pr.fit(schema, pr.Model(tower=[4]), train=rows, epochs=1)
    other.save(tmp_path / "other")
    frame = pl.DataFrame({"user": rows["user"], "margin": rows["margin"]})
    export(other, tmp_path / "other", [frame])
    run_folder(tmp_path / "other")
    _, (record,) = reloaded()
    assert (record.levelname, record.fields["lost_outputs"]) == (
        "WARNING",
        ["p_buy", "p_buy_given_click", "spend", "spend_given_buy"],
    )
    assert record.fields["new_columns"] == []
    run_folder(exported)  # and back to what asks for more
    _, (record,) = reloaded()
    assert record.fields["new_columns"] == ["age", "city", "price", "seen", "slot", "url"]
    assert record.fields["lost_outputs"] == []


def test_a_watch_takes_what_is_there_and_a_hangup_all(
    models, run_folder, exported, later, engine, monkeypatch
):
    monkeypatch.setattr("polyrank.serve.app.reload.WATCH_S", 0)
    both = Models([models.first, Model("fixed", engine, 100)])
    telemetry = Telemetry(Bodies(Limits()))
    wanted = {each: pr.Engine(each).version for each in (exported, later)}

    async def work():
        reloader = Reloader(both, telemetry)
        reloader.start(watch=True)
        for folder in (later, exported):
            run_folder(folder)
            while both["main"].current.version != wanted[folder]:
                await asyncio.sleep(0)
        while telemetry.reloads["main", "loaded"] < 2:
            await asyncio.sleep(0)
        reloader.all()
        while not telemetry.reloads["main", "same"]:
            await asyncio.sleep(0)
        reloader.stop()

    asyncio.run(work())
    assert +telemetry.reloads == {("main", "loaded"): 2, ("main", "same"): 1}
