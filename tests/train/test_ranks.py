"""Several processes are one: the same losses, the same weights, each row once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.train.of_ranks import RUNS, SIZE, STEPS, log, plain, schema, wide

import polyrank as pr
from polyrank.train.explain import explain
from polyrank.train.sources import Sources

SCRIPT = Path(__file__).with_name("of_ranks.py")
# Of each process its own draws, or statistics or weights of its own rows: another run than one
# process has.
OWN = ("norm", "dropout", "self-normalised")
OTHER = ("compiled", "full")
EQUAL = tuple(name for name in RUNS if name not in (*OWN, *OTHER))


def together(folder: Path, count: int, names: tuple[str, ...]) -> dict[str, list[dict]]:
    """Do runs by several processes; return what each gave, by rank."""
    environment = {
        **os.environ, "GLOO_SOCKET_IFNAME": "lo", "POLYRANK_TEST_GROUP": str(os.getpid())
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(count), folder, *names],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    for each in started:
        output, _ = each.communicate(timeout=300)
        assert each.returncode == 0, output
    return {
        name: [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in range(count)]
        for name in names
    }


def but_for_exchanges(run: dict) -> dict:
    history = [{k: v for k, v in each.items() if k != "exchanged_bytes"} for each in run["history"]]
    return {**run, "history": history}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    return together(tmp_path_factory.mktemp("two"), 2, tuple(RUNS))


@pytest.mark.parametrize("name", [*EQUAL, *OWN])
def test_all_processes_have_the_same_bits(by_two, name):
    first, second = by_two[name]
    if "held" in name:  # each exchanges what it looks up
        assert but_for_exchanges(first) == but_for_exchanges(second)
    else:
        assert first == second
    assert all(record["ranks"] == 2 for record in first["history"])


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_are_one_with_the_joined_batch(by_two, name):
    """float32 sums of other order, through some steps of Adam, which divides by their size."""
    alone, found = RUNS[name](1), by_two[name][0]
    for one, two in zip(alone["history"], found["history"], strict=True):
        assert two.keys() - one.keys() == {"exchanged_bytes"}
        assert (one["rows"], one["best"]) == (two["rows"], two["best"])
        for key, value in one.items():
            if key.endswith("loss"):
                assert two[key] == pytest.approx(value, rel=1e-5, abs=1e-6), key
    for output, values in alone["predicted"].items():
        np.testing.assert_allclose(found["predicted"][output], values, rtol=3e-4, atol=3e-5)


HELD = {
    "held": "sum", "held, adagrad": "adagrad", "held, every row": "every row",
    "held, in torch": "in torch", "held, wide": "wide", "held, idle, wide": "idle, wide",
    "held, stem": "stem", "held, target": "target", "held, one row": "one row",
    "held, wide, several outputs": "wide, several outputs",
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_tables_that_processes_hold_are_the_same_tables(by_two, name):
    """A row's gradients are summed in the same order; only where slots are summed up is it not."""
    found, whole = (but_for_exchanges(by_two[each][0]) for each in (name, HELD[name]))
    if "wide" not in name:
        assert found == whole
    for one, two in zip(whole["history"], found["history"], strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)


def test_a_compiled_step_is_of_one_process(by_two):
    for each in by_two["compiled"]:
        assert "compile = true makes one graph" in each["error"]


def test_a_full_disk_of_one_process_ends_all_and_leaves_the_last_checkpoint(by_two):
    first, second = by_two["full"]
    assert "rows-2-0-1-of-2.safetensors could not be written" in second["said"]
    assert first["said"] == f"process 1: {second['said']}"
    # What the other had written of the next one stays until one counts.
    assert {"state.safetensors", "rows-1-0-0-of-2.safetensors"} < set(first["left"])
    assert "rows-1-0-1-of-2.safetensors" in first["left"]
    for each in (first, second):
        straight = but_for_exchanges(each.pop("straight"))
        assert straight.items() <= but_for_exchanges(each).items()


@pytest.mark.slow
def test_three_processes_are_one_too(tmp_path):
    found = together(tmp_path, 3, ("sum", "idle, wide"))
    for name, (first, *others) in found.items():
        assert others == [first, first]
        alone = RUNS[name](1)["history"]
        for one, three in zip(alone, first["history"], strict=True):
            assert three["train click @ all loss"] == pytest.approx(
                one["train click @ all loss"], rel=1e-5, abs=1e-6
            )


@pytest.mark.parametrize(
    ("name", "size", "model"),
    [
        ("exchanged", 500, plain()), ("sum", 12, plain()), ("held, exchanged", 100, plain()),
        ("held, wide, exchanged", 100, wide()),
    ],
)  # fmt: skip
def test_what_is_exchanged_is_what_explain_says(by_two, name, size, model):
    """Within a tenth: the plan has expected numbers of distinct rows, and a batch has its own."""
    rows = 4000 if "exchanged" in name else STEPS * SIZE
    tables = "sharded" if "held" in name else "replicated"
    training = pr.Training(batch_size=size, unseen_rate=0.0, tables=tables)
    plan = explain(schema(), model, training, Sources(log(rows)), ranks=2).together
    assert plan is not None
    assert plan.steps == rows // (2 * size)
    known = by_two[name][0]["history"][-1]["exchanged_bytes"] / plan.steps
    # What validation exchanges is of an epoch and not of a step; rows that it looks up are few.
    known -= (2 * 4 * SIZE + 2 * 8) / plan.steps
    assert sum(plan.exchanged_bytes.values()) == pytest.approx(known, rel=0.1)
