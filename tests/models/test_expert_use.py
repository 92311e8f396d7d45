"""How gates use experts: the numbers against plain numpy, planted faults, and what a run tells."""

import json
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.models.expert_use import expert_use, linear_cka
from polyrank.models.trunk import Mixing

TASKS = ("click", "buy")


def mixing(rows=400, experts=4, columns=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rows, experts, columns, generator=generator).relu()
    gates = {
        name: (2 * torch.randn(rows, experts, generator=generator)).softmax(dim=1) for name in TASKS
    }
    return Mixing(experts=tuple("abcdefgh"[:experts]), outputs=outputs, gates=gates)


def collapsed(mixed, gate, expert, weight):
    """The same with a gate whose mean weight of an expert is `weight`."""
    rows, experts = mixed.gates[gate].shape
    weights = torch.full((rows, experts), (1 - weight) / (experts - 1))
    weights[:, expert] = weight
    return Mixing(
        experts=mixed.experts, outputs=mixed.outputs, gates={**mixed.gates, gate: weights}
    )


def test_the_numbers_are_those_of_plain_numpy():
    mixed = mixing()
    mixed.outputs[:, 1, :3] = 0
    use = expert_use(mixed)
    outputs = mixed.outputs.double().numpy()
    gates = {name: each.double().numpy() for name, each in mixed.gates.items()}
    for gate in use.gates:
        weights = gates[gate.name]
        mean = weights.mean(axis=0)
        assert list(gate.weights) == ["a", "b", "c", "d"]
        np.testing.assert_allclose(list(gate.weights.values()), mean, rtol=1e-12)
        by_row = -(weights * np.log(weights)).sum(axis=1).mean() / np.log(4)
        assert gate.row_entropy == pytest.approx(by_row, rel=1e-12)
        together = -(mean * np.log(mean)).sum() / np.log(4)
        assert gate.mean_entropy == pytest.approx(together, rel=1e-12)
        assert gate.row_entropy < gate.mean_entropy
    utilisation = np.mean([each.mean(axis=0) for each in gates.values()], axis=0)
    np.testing.assert_allclose(use.utilisation, utilisation, rtol=1e-12)
    effective = np.exp(-(utilisation * np.log(utilisation)).sum())
    assert use.effective_experts == pytest.approx(effective, rel=1e-12)
    assert use.dead_rate == (0.0, 0.6, 0.0, 0.0)
    assert use.even == (0.25, 0.25, 0.25, 0.25)
    for one in range(4):
        for other in range(4):
            x, y = (outputs[:, each] - outputs[:, each].mean(axis=0) for each in (one, other))
            cross, own_x, own_y = (np.linalg.norm(each) for each in (y.T @ x, x.T @ x, y.T @ y))
            expected = cross**2 / (own_x * own_y)
            assert use.similarity[one][other] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), seed=st.integers(0, 99))
def test_cka_sees_neither_scale_nor_shift_nor_rotation(scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(50, 2, 3, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    moved = outputs.clone()
    moved[:, 1] = scale * outputs[:, 1] @ rotation + shift
    before, after = linear_cka(outputs), linear_cka(moved)
    assert after[0][1] == pytest.approx(before[0][1], rel=1e-6)
    assert 0 <= before[0][1] <= 1
    copied = torch.stack([outputs[:, 0], moved[:, 1]], dim=1)
    copied[:, 0] = outputs[:, 1]
    assert linear_cka(copied)[0][1] == pytest.approx(1, rel=1e-6)


def test_an_expert_that_says_one_thing_is_similar_to_none():
    outputs = torch.randn(50, 3, 2)
    outputs[:, 1] = 0.1
    similarity = linear_cka(outputs)
    assert similarity[1] == (None, None, None)
    assert [row[1] for row in similarity] == [None] * 3
    assert similarity[0][0] == pytest.approx(1)
    assert similarity[0][2] is not None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(2, 6))
def test_what_holds_for_any_mixture(seed, experts):
    use = expert_use(mixing(rows=30, experts=experts, seed=seed))
    assert sum(use.utilisation) == pytest.approx(1)
    assert sum(use.even) == pytest.approx(1)
    assert 1 <= use.effective_experts <= experts + 1e-9
    for gate in use.gates:
        assert 0 <= gate.row_entropy <= gate.mean_entropy + 1e-9 <= 1 + 2e-9


def test_a_gate_may_see_some_experts_only():
    """Its entropies are of what it sees, and what nobody could choose is not unused."""
    half = torch.zeros(200, 4)
    half[:, :2] = 0.5
    gates = {"click": half, "buy": half.flip(1)}
    sees = {"click": ("a", "b"), "buy": ("c", "d")}
    outputs = mixing(rows=200).outputs
    use = expert_use(Mixing(experts=tuple("abcd"), outputs=outputs, gates=gates, sees=sees))
    assert use.gates[0].weights == {"a": 0.5, "b": 0.5}
    assert use.gates[0].row_entropy == pytest.approx(1)
    assert use.utilisation == use.even == (0.25,) * 4
    assert use.effective_experts == pytest.approx(4)
    assert use.warnings() == ()


def test_a_gate_without_a_choice_has_no_entropy_and_is_not_collapsed():
    outputs = mixing(rows=200).outputs[:, :1]
    gates = {"click": torch.ones(200, 1)}
    use = expert_use(Mixing(experts=("a",), outputs=outputs, gates=gates))
    assert use.gates[0].row_entropy is None
    assert use.gates[0].mean_entropy is None
    assert use.figures() == {"largest dead rate": 0.0}
    assert use.warnings() == ()


def test_routing_and_collapse_have_the_same_row_entropy_and_another_mean_entropy():
    one_hot = torch.eye(4).repeat(50, 1)
    outputs = mixing(rows=200).outputs
    always = torch.zeros(200, 4)
    always[:, 2] = 1
    use = expert_use(
        Mixing(
            experts=tuple("abcd"), outputs=outputs, gates={"routes": one_hot, "collapsed": always}
        )
    )
    routes, same = use.gates
    assert (routes.row_entropy, same.row_entropy) == (0, 0)
    assert routes.mean_entropy == pytest.approx(1)
    assert same.mean_entropy == 0
    assert [text.split(" gives")[0] for text in use.warnings()] == ["the gate of 'collapsed'"]


def test_a_collapsed_gate_is_told_with_a_remedy():
    assert expert_use(collapsed(mixing(), "buy", 2, 0.94)).warnings() == ()
    (warning,) = expert_use(collapsed(mixing(), "buy", 2, 0.96)).warnings()
    assert warning.startswith("the gate of 'buy' gives 96.0% of its weight to expert 'c': it no")
    assert "Lower lr" in warning


def test_a_dead_expert_is_told_with_a_remedy():
    mixed = mixing(columns=10)
    mixed.outputs[:, 3, :8] = 0
    assert expert_use(mixed).warnings() == ()
    mixed.outputs[:, 3, 8] = 0
    (warning,) = expert_use(mixed).warnings()
    assert warning.startswith(
        "expert 'd' (90%) is dead: that share of the output units is 0 on all 400"
    )
    assert 'norm = "batch"' in warning


def test_experts_that_no_gate_uses_are_told_together():
    mixed = collapsed(collapsed(mixing(), "buy", 0, 0.999), "click", 1, 0.999)
    *_, warning = expert_use(mixed).warnings()
    assert warning.startswith("the gates hardly use experts 'c' (0.03%), 'd' (0.03%): less than a")


def test_few_rows_warn_of_nothing():
    mixed = collapsed(mixing(rows=99), "buy", 2, 1.0)
    assert expert_use(mixed).warnings() == ()


def test_the_level_is_named():
    mixed = collapsed(mixing(), "buy", 2, 0.97)
    level = Mixing(experts=mixed.experts, outputs=mixed.outputs, gates=mixed.gates, level="level 1")
    use = expert_use(level)
    assert use.warnings()[0].startswith("level 1: the gate of 'buy'")
    assert str(use).startswith("level 1: ")
    assert all(name.startswith("level 1 ") for name in use.figures())


def test_it_prints_as_a_table_and_goes_through_json():
    mixed = mixing(experts=2)
    use = expert_use(mixed)
    lines = str(use).splitlines()
    assert lines[0].endswith("effective experts of 2, on 400 rows")
    assert lines[1].split("  ")[0] == "expert"
    assert [line.split("  ")[0] for line in lines[2:]] == ["a", "b", "row entropy", "mean entropy"]
    table = json.loads(json.dumps(use.to_json(), allow_nan=False))
    assert list(table) == [
        "level", "rows", "effective_experts", "gates", "experts", "similarity", "warnings"
    ]  # fmt: skip
    assert table["gates"][0] == {
        "name": "click",
        "weights": dict(use.gates[0].weights),
        "row_entropy": use.gates[0].row_entropy,
        "mean_entropy": use.gates[0].mean_entropy,
    }
    assert list(table["experts"][0]) == ["name", "utilisation", "even", "dead_rate"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gates": {}}, "needs at least one gate; a trunk without gates returns"),
        (
            {"outputs": torch.zeros(3, 2)},
            r"outputs must have the shape .* with experts = 2, got \(3, 2",
        ),
        (
            {"gates": {"click": torch.zeros(3, 3)}},
            r"gate 'click' must have the shape \(3, 2\), got \(3, 3\)",
        ),
        ({"sees": {"click": ("slaw",)}}, "sees 'slaw', which is no expert; did you mean 'slow'"),
    ],
)
def test_a_mixing_that_cannot_be_is_refused(change, message):
    parts = {
        "experts": ("slow", "fast"),
        "outputs": torch.zeros(3, 2, 4),
        "gates": {"click": torch.zeros(3, 2)},
    }
    with pytest.raises(ConfigError, match=message):
        Mixing(**(parts | change))


def log(seed, rows=1500):
    generator = np.random.default_rng(seed)
    item = generator.integers(0, 20, rows)
    click = (generator.random(rows) < 0.1 + 0.04 * item).astype(int)
    return {
        "item": item,
        "price": 1 + generator.random(rows),
        "click": click,
        "buy": click * (generator.random(rows) < 0.9 - 0.04 * item),
    }


SCHEMA = pr.Schema(
    [pr.SparseFeature("item"), pr.DenseFeature("price", encoding="none")],
    [pr.Task("click"), pr.Task("buy", given="click")],
)


def fitted(trunk, seed=0, **options):
    rows = log(seed)
    arguments = {"train": rows, "valid": log(seed + 100, 500), "epochs": 2, "batch_size": 128}
    model = pr.Model(trunk=trunk, tower=[4], embed_dim=4, dropout=0)
    return pr.fit(SCHEMA, model, seed=seed, **(arguments | options))


@dataclass(frozen=True)
class Planted:
    """An MMoE of which something is broken before the first step; no registered trunk."""

    fault: str

    def build(self, layout, tasks):
        trunk = pr.MMoE(experts=3, hidden=[8]).build(layout, tasks)
        with torch.no_grad():
            if self.fault == "dead":
                trunk.expert[1].linear[0].bias.fill_(-1e3)
            else:
                trunk.gate["buy"].weight[2, layout.slices["price"]] = 50.0  # the price is above 1
        return trunk


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dead", "expert '1' (100%) is dead: that share of the output units is 0 on all 500"),
        ("collapsed", "the gate of 'buy' gives 100.0% of its weight to expert '2'"),
    ],
)
def test_a_planted_fault_is_told_once_after_training(fault, message, caplog):
    with caplog.at_level(logging.WARNING):
        bundle = fitted(Planted(fault))
    assert [text.startswith(message) for text in caplog.messages] == [True]
    (use,) = bundle.experts(log(100, 500))
    assert list(use.warnings()) == caplog.messages
    figure = "largest dead rate" if fault == "dead" else "gate buy largest weight"
    assert bundle.history[figure].to_list() == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("trunk", [pr.MMoE(experts=4, hidden=[8]), pr.PLE(hidden=[8])])
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_warns_of_no_expert(trunk, seed, caplog):
    with caplog.at_level(logging.WARNING):
        fitted(trunk, seed)
    assert caplog.messages == []


def test_the_history_is_of_each_epoch_and_the_bundle_of_the_one_that_was_kept():
    bundle = fitted(pr.MMoE(experts=4, hidden=[8]), epochs=6, lr=0.05)
    best = np.flatnonzero(bundle.history["best"].to_numpy())[-1]
    assert best < 5, "the run must overfit for this to say anything"
    (use,) = bundle.experts(log(100, 500))
    assert list(use.figures()) == [
        *(
            f"gate {task} {figure}"
            for task in TASKS
            for figure in ("row entropy", "mean entropy", "largest weight")
        ),
        "largest dead rate",
    ]
    assert bundle.history.select(list(use.figures())).row(best, named=True) == use.figures()
    assert bundle.history["gate click row entropy"].n_unique() == 6


def test_levels_are_named_where_there_are_several():
    columns = fitted(pr.PLE(hidden=[8]), valid=None).history.columns
    assert {
        "level 0 gate click row entropy",
        "level 0 gate shared group row entropy",
        "level 1 gate click row entropy",
        "level 1 largest dead rate",
    } <= set(columns)
    assert "level 1 gate shared group row entropy" not in columns
    assert "gate click row entropy" in fitted(pr.PLE(levels=1, hidden=[8])).history.columns


def test_a_trunk_that_mixes_nothing_has_no_figures():
    bundle = fitted(pr.SharedBottom(hidden=[8]))
    assert bundle.experts(log(100)) == ()
    assert [name for name in bundle.history.columns if "gate" in name or "dead" in name] == []


def test_at_most_a_chunk_of_rows_is_looked_at_and_they_are_drawn_from_all(monkeypatch):
    bundle = fitted(pr.MMoE(experts=4, hidden=[8]))
    (every,) = bundle.experts(log(100, 500))
    monkeypatch.setattr("polyrank.models.expert_use.CHUNK_ROWS", 200)
    rows = {name: np.sort(values) for name, values in log(100, 500).items()}
    (some,) = bundle.experts(rows)
    first = bundle.experts({name: values[:200] for name, values in rows.items()})[0]
    assert (every.rows, some.rows, first.rows) == (500, 200, 200)
    assert some != first
    assert some == bundle.experts(rows)[0]


class Interrupt(Exception):
    pass


def test_a_run_that_is_resumed_has_the_same_figures(tmp_path):
    def stop(progress):
        if progress.event == "epoch" and progress.epoch == 2:
            raise Interrupt

    trunk, options = pr.MMoE(experts=4, hidden=[8], dropout=0.2), {"epochs": 4}
    straight = fitted(trunk, out=tmp_path / "straight", **options)
    with pytest.raises(Interrupt):
        fitted(trunk, out=tmp_path / "broken", progress=stop, **options)
    resumed = fitted(trunk, out=tmp_path / "broken", resume=True, **options)
    timings = ["seconds", "rows_per_second"]
    assert resumed.history.drop(timings).equals(straight.history.drop(timings))
    lines = (tmp_path / "broken" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["gate buy mean entropy"] for line in lines] == straight.history[
        "gate buy mean entropy"
    ].to_list()
