"""Counts of several processes add up, and outlive each of them."""

import asyncio
import json
import os

import pytest

from polyrank.serve.app.ledger import Ledger, Place
from polyrank.serve.app.models import Models
from polyrank.serve.app.telemetry import Telemetry


def counted(engine, times):
    telemetry = Telemetry()
    telemetry.serves("main", engine)
    telemetry.in_flight = times
    for _ in range(times):
        telemetry.answered("/v1/score", 200)
        telemetry.took(0.002)
        telemetry.shadow_differences["next", "p_click"] = 0.5
        telemetry.ids["main", "user"] += 3
    return telemetry


def lines(telemetry):
    text = telemetry.exposition().decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_what_one_shows_is_what_all_have_counted(engine, tmp_path):
    one, other = counted(engine, 2), counted(engine, 5)
    first, second = (Ledger(Place(tmp_path, n, -1), each) for n, each in enumerate([one, other]))
    first.write()
    second.write()
    for each in (one, other):
        found = lines(each)
        assert found['polyrank_requests_total{route="/v1/score",status="200"}'] == 7
        assert found['polyrank_ids_total{feature="user",model="main"}'] == 21
        assert found["polyrank_request_seconds_count"] == 7
        assert found["polyrank_request_seconds_sum"] == pytest.approx(0.014)
        assert found["polyrank_in_flight"] == 7
        assert found[f'polyrank_bundle{{model="main",version="{engine.version}"}}'] == 2


def test_who_takes_a_place_goes_on_with_its_counts(engine, tmp_path):
    Ledger(Place(tmp_path, 0, -1), counted(engine, 2)).write()
    again = Telemetry()
    Ledger(Place(tmp_path, 0, -1), again)
    found = lines(again)
    assert found['polyrank_requests_total{route="/v1/score",status="200"}'] == 2
    assert found["polyrank_in_flight"] == 0  # nothing of what was then is now


def test_it_is_written_while_it_runs_and_an_end_of_its_parent_is_told(engine, tmp_path):
    alive, parent = os.pipe()
    told = []

    async def work():
        ledger = Ledger(Place(tmp_path, 3, alive), counted(engine, 1))
        ledger.start(lambda: told.append("gone"))
        while not (tmp_path / "3.json").exists():
            await asyncio.sleep(0)
        assert not told
        os.close(parent)
        while not told:
            await asyncio.sleep(0)

    asyncio.run(work())
    os.close(alive)
    state = json.loads((tmp_path / "3.json").read_text(encoding="utf-8"))
    assert state["counts"]["requests"] == [[["/v1/score", 200], 1]]


def test_what_older_bundles_shared_is_removed(run_folder, exported, later, tmp_path):
    shared = tmp_path / "shared"
    models = Models.open([str(run_folder(exported))], 100, shared=shared)
    before = models.first.current
    newer = shared / "newer"
    run_folder(later)
    models.first.reload()
    newer.mkdir()  # of a process that is ahead of this one
    os.utime(newer, ns=(2**62, 2**62))
    models.tidy()
    assert {each.name for each in shared.iterdir()} == {models.first.current.version, "newer"}
    assert before.engine.predict({name: [None] for name in before.engine.inputs}).height == 1
