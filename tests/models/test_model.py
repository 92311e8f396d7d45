"""The Model spec, its messages, and trunks that polyrank does not have."""

from dataclasses import dataclass

import pytest
import torch

import polyrank as pr
import polyrank.tasks
from polyrank.balance import Balance, BalanceModule
from polyrank.errors import BundleError, ConfigError
from polyrank.registry import register, unregister
from polyrank.train.explain import explain
from polyrank.train.sources import Sources


@dataclass(frozen=True)
class Doubled:
    """A trunk from a notebook: a plain object with `build`, a plain module."""

    factor: float = 2.0

    def build(self, layout, tasks):
        return DoubledTrunk(self.factor, [task.name for task in tasks])


class DoubledTrunk(torch.nn.Module):
    def __init__(self, factor, tasks):
        super().__init__()
        self.factor, self.tasks = factor, tasks
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return dict.fromkeys(self.tasks, self.factor * self.scale * x)


class Forgetful(pr.TrunkModule):
    def forward(self, x):
        return {"click": x}


class Penalised(DoubledTrunk, pr.TrunkModule):
    def __init__(self, factor, tasks, pull=100.0):
        super().__init__(factor, tasks)
        self.pull = pull

    def shared_parameters(self):
        return [self.scale]

    def penalties(self, logits):
        return {"size": self.pull * self.scale.square().sum()}


@dataclass(frozen=True)
class Built:
    module: object

    def build(self, layout, tasks):
        return self.module


ROWS = {"item": [1, 2] * 20, "click": [1, 0, 1, 1] * 10, "buy": [1, 0, 0, 0] * 10}
SCHEMA = pr.Schema([pr.SparseFeature("item")], [pr.Task("click"), pr.Task("buy", given="click")])


def test_any_object_with_build_is_a_trunk(tmp_path):
    bundle = pr.fit(SCHEMA, pr.Model(trunk=Doubled()), train=ROWS, epochs=2)
    bundle.save(tmp_path / "b")
    with pytest.raises(BundleError, match=r"trunk is 'Doubled'.*load it with trunk=Doubled"):
        pr.load(tmp_path / "b")
    loaded = pr.load(tmp_path / "b", trunk=Doubled())
    assert loaded.predict(ROWS).equals(bundle.predict(ROWS))


def test_a_trunk_must_answer_for_every_task():
    with pytest.raises(ConfigError, match=r"Forgetful must return a tensor \(B, H\).*task 'buy'"):
        pr.fit(SCHEMA, pr.Model(trunk=Built(Forgetful())), train=ROWS)


class Overwrites(BalanceModule):
    """Sets gradients instead of adding to them, as balances of gradients do."""

    def backward(self, losses, shared):
        total = torch.stack(list(losses.values())).sum()
        for tensor, gradient in zip(shared, torch.autograd.grad(total, shared), strict=True):
            tensor.grad = gradient
        return total.detach()


@dataclass(frozen=True)
class Overwriting(Balance):
    def build(self, terms):
        return Overwrites()


@pytest.mark.parametrize("balance", [pr.Sum(), Overwriting()])
def test_penalties_are_added_after_the_balance(balance):
    """A penalty of 100·scale² pulls the scale towards 0 whatever the balance does."""
    options = {"epochs": 30, "lr": 0.01, "balance": balance, "schedule": pr.Constant()}
    module, plain = Penalised(1.0, ["click", "buy"]), Penalised(1.0, ["click", "buy"], pull=0.0)
    bundle = pr.fit(SCHEMA, pr.Model(trunk=Built(module)), train=ROWS, **options)
    pr.fit(SCHEMA, pr.Model(trunk=Built(plain)), train=ROWS, **options)
    assert module.scale.item() < 0.8 < plain.scale.item()
    penalties = bundle.history["train penalty size loss"]
    assert penalties[0] > penalties[-1] > 0


def test_a_module_whose_penalties_would_be_ignored_is_refused():
    class Forgotten(DoubledTrunk):
        def penalties(self, logits):
            return {}

    with pytest.raises(ConfigError, match="Forgotten has penalties but is no TrunkModule"):
        pr.fit(SCHEMA, pr.Model(trunk=Built(Forgotten(1.0, ["click", "buy"]))), train=ROWS)


def test_a_module_whose_mixing_would_be_ignored_is_refused():
    class Forgotten(DoubledTrunk):
        def mixing(self, x):
            return ()

    with pytest.raises(ConfigError, match="Forgotten has mixing but is no TrunkModule"):
        pr.fit(SCHEMA, pr.Model(trunk=Built(Forgotten(1.0, ["click", "buy"]))), train=ROWS)


def test_a_layer_may_be_called_mixing():
    class Layered(DoubledTrunk):
        def __init__(self, factor, tasks):
            super().__init__(factor, tasks)
            self.mixing = torch.nn.Identity()

    trunk = Built(Layered(1.0, ["click", "buy"]))
    assert pr.fit(SCHEMA, pr.Model(trunk=trunk), train=ROWS, epochs=1).experts(ROWS) == ()


def test_a_mixing_that_cannot_be_is_refused_before_training():
    class Misshapen(Penalised):
        def mixing(self, x):
            return (pr.Mixing(experts=("a",), outputs=x, gates={"click": x}),)

    model = pr.Model(trunk=Built(Misshapen(1.0, ["click", "buy"])), wide=False)
    with pytest.raises(
        ConfigError, match=r"mixing: outputs must have the shape .* with experts = 1, got \(2, 16\)"
    ):
        pr.fit(SCHEMA, model, train=ROWS)


def test_a_registered_trunk_is_not_replaced(tmp_path):
    pr.fit(SCHEMA, pr.Model(trunk=pr.MMoE()), train=ROWS, epochs=1).save(tmp_path / "b")
    with pytest.raises(BundleError, match=r"trunk is .*'mmoe'.*: leave trunk out"):
        pr.load(tmp_path / "b", trunk=Doubled())


def test_esmm_is_separate_towers_on_all_rows():
    model = pr.ESMM(tower=[4], embed_dim=3)
    assert model == pr.Model(
        trunk=pr.Separate(norm=None, dropout=None), interaction=False, tower=(4,), embed_dim=3,
        norm="none", dropout=0.1, field_dropout=0.0, wide=False, trees=False, entire_space=True,
    )  # fmt: skip
    schema = pr.Schema(SCHEMA.features, [pr.Task("click"), pr.Task("buy", given="click",
                                                                   space="click")])  # fmt: skip
    with pytest.raises(ConfigError, match=r"ESMM supervises every event on all rows.*'buy'"):
        pr.fit(schema, model, train=ROWS)


@pytest.mark.parametrize(("default", "space"), [("all", "all"), ("parent", "click")])
def test_the_model_names_the_spaces_that_are_left_out(default, space, monkeypatch):
    monkeypatch.setattr(polyrank.tasks, "DEFAULT_SPACE", default)
    spend = pr.Task("spend", kind="regression", given="buy")
    schema = pr.Schema(SCHEMA.features, [*SCHEMA.tasks, spend])
    for model, buy in ((pr.Model(), space), (pr.ESMM(), "all")):
        named = model.supervised(schema)
        assert [task.space for task in named.tasks] == ["all", buy, "buy"]
        assert model.supervised(named) is named
        rows = {**ROWS, "spend": [float(i) for i in range(len(ROWS["item"]))]}
        bundle = pr.fit(schema, model, train=rows, epochs=1)
        assert bundle.schema == named
        assert [task["space"] for task in bundle.config["task"]] == ["all", buy, "buy"]
        plan = explain(schema, model, pr.Training(), Sources(rows))
        assert plan.schema == named
    assert [task.space for task in schema.tasks] == [None, None, None]


def test_esmm_stays_when_a_default_moves(without_defaults):
    before = pr.ESMM(), pr.ESMM(tower=[4], embed_dim=3)
    without_defaults(pr.Model, pr.Separate)
    assert (pr.ESMM(), pr.ESMM(tower=[4], embed_dim=3)) == before


def test_esmm_may_hold_the_click():
    tasks = [pr.Task("click"), pr.Task("buy", given="click", hold_ancestors=True)]
    schema = pr.Schema(SCHEMA.features, tasks)
    bundle = pr.fit(schema, pr.ESMM(tower=[4]), train=ROWS, epochs=1)
    assert [task.spaces for task in bundle.schema.tasks] == [("all",), ("all",)]
    plan = explain(schema, pr.ESMM(tower=[4]), pr.Training(), Sources(ROWS))
    assert "[P(click)]·P(buy|click)" in str(plan)
    assert [term["held"] for term in plan.to_json()["objective"]] == [[], ["click"]]


def test_the_model_gives_its_trunk_norm_and_dropout():
    model = pr.Model(trunk=pr.MMoE(experts=2, dropout=0.0), norm="batch", dropout=0.5)
    bundle = pr.fit(SCHEMA, model, train=ROWS, epochs=1)
    expert = bundle.ranker.trunk.expert[0]
    assert type(expert.norm[0]).__name__ == "BatchNorm"
    assert type(expert.dropout).__name__ == "Identity"
    assert bundle.ranker.head["click"].tower.dropout.p == 0.5


def test_heads_start_at_the_base_rate():
    bundle = pr.fit(SCHEMA, pr.Model(wide=False), train=ROWS, epochs=1, lr=1e-9)
    predicted = bundle.predict(ROWS)
    assert predicted["p_click"].mean() == pytest.approx(31 / 42, abs=0.02)
    assert predicted["p_buy_given_click"].mean() == pytest.approx(11 / 32, abs=0.02)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"towr": [8]}, "model: unknown key 'towr'; did you mean 'tower'"),
        ({"trunk": {"kind": "mmo"}}, "model.trunk: unknown kind 'mmo'; did you mean 'mmoe'"),
        ({"trunk": "mmoe"}, "model.trunk: expected a table with a kind"),
        ({"trunk": {"kind": "mmoe", "expert": 3}}, "unknown key 'expert'; did you mean 'experts'"),
        ({"norm": "layer"}, r"model.norm: .*'none' or 'batch'"),
        ({"dropout": 1.0}, "model: dropout must be a number of at least 0 and below 1, got 1.0"),
        ({"trunk": {"kind": "mmoe", "norm": "bach"}}, "model.trunk.norm: .*'none' or 'batch'"),
        (
            {"trunk": {"kind": "mmoe", "dropout": 1.5}},
            "MMoE: dropout must be a number of at least 0 and below 1",
        ),
        ({"embed_dim": 0}, "embed_dim must be a whole number of at least 1"),
        (
            {"field_dropout": 1.0},
            "model: field_dropout must be a number of at least 0 and below 1, got 1.0",
        ),
        ({"interaction": {"kind": "cros"}}, "interaction: unknown kind 'cros'; did you mean 'cro"),
        ({"interaction": {"rank": 3}}, "model.interaction: expected a table with a kind"),
        (
            {"interaction": {"kind": "cross", "rnk": 3}},
            "model.interaction: unknown key 'rnk'; did you mean 'rank'",
        ),
        ({"interaction": {"kind": "cross", "rank": 0}}, "Cross: rank must be a whole number of at"),
        (
            {"trees": True},
            "model.trees: expected a table, {} for its defaults, or false for none, got True",
        ),
        ({"wide": 3}, "model.wide: expected a table, {} for its defaults, or false for none"),
        (
            {"interaction": True},
            "model.interaction: expected a table with a kind, or false for none, got True",
        ),
        (
            {"interaction": {"class": "Mine"}},
            "model.interaction: 'Mine' is a class of your own.*register it",
        ),
    ],
)
def test_tables_are_checked(table, message):
    with pytest.raises(ConfigError, match=message):
        pr.Model.from_table(table)


def test_an_unknown_norm_is_refused_in_python_too():
    with pytest.raises(ConfigError, match="unknown norm 'bach'; did you mean 'batch'"):
        pr.Model(norm="bach")
    with pytest.raises(ConfigError, match="MMoE: unknown norm 'bach'; did you mean 'batch'"):
        pr.MMoE(norm="bach")


@pytest.mark.parametrize("make", [lambda: pr.Model(tower=16), lambda: pr.MMoE(hidden="16")])
def test_a_width_alone_is_no_list(make):
    with pytest.raises(ConfigError, match=r"tower|hidden"):
        make()


def test_an_interaction_reads_back_and_none_is_false():
    assert pr.Model(interaction=False).to_table()["interaction"] is False
    assert pr.Model.from_table({"interaction": False}).interaction is False
    model = pr.Model(interaction=pr.Cross(rank=4, layers=2), field_dropout=0.3)
    table = model.to_table()
    assert table["interaction"] == {"kind": "cross", "rank": 4, "layers": 2}
    assert pr.Model.from_table(table) == model


@dataclass(frozen=True, kw_only=True)
class Narrow(pr.Interaction):
    """An interaction from a notebook, which does not keep the width."""

    def build(self, layout):
        return torch.nn.Linear(layout.width, 5)


@pytest.fixture
def registered():
    register("interaction", "narrow", Narrow)
    yield
    unregister("interaction", "narrow")


def test_an_interaction_is_one_that_a_bundle_can_name():
    with pytest.raises(ConfigError, match=r"must be an Interaction such as Cross\(\).*Doubled"):
        pr.Model(interaction=Doubled())
    with pytest.raises(
        ConfigError, match=r'Narrow is not registered.*register\("interaction", "narrow", Narrow\)'
    ):
        pr.Model(interaction=Narrow())


@pytest.mark.usefixtures("registered")
def test_an_interaction_keeps_the_width():
    with pytest.raises(ConfigError, match=r"Linear must return a tensor .*, \(2, 16\), got \(2, 5"):
        pr.fit(SCHEMA, pr.Model(interaction=Narrow(), wide=False), train=ROWS)


def test_weights_of_another_model_are_refused():
    one = pr.fit(SCHEMA, pr.Model(embed_dim=4), train=ROWS, epochs=1).ranker
    two = pr.fit(SCHEMA, pr.Model(embed_dim=8), train=ROWS, epochs=1).ranker
    with pytest.raises(BundleError, match=r"'embed.item' has shape \(3, 8\).*expects \(3, 4\)"):
        one.load_named_weights(two.named_weights())
    with pytest.raises(BundleError, match=r"missing \['embed.item'\]"):
        one.load_named_weights(
            {name: w for name, w in one.named_weights().items() if name != "embed.item"}
        )


def test_torchs_own_generator_is_left_as_it_was():
    torch.manual_seed(7)
    before = torch.get_rng_state().clone()
    pr.fit(SCHEMA, pr.Model(dropout=0.5), train=ROWS, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
