"""A module of the user's own, from a dict to (rows, tasks) probabilities."""

import numpy as np
import pytest
import torch
from tests.classic.conftest import labels
from torch import nn
from torch.utils.data import DataLoader

from polyrank.classic import DataGenerator, MTLTrainer
from polyrank.errors import ConfigError, DataError
from polyrank.labels import Binary, Regression

TYPES = ["classification", "regression"]


class Own(nn.Module):
    """Two tasks over a table and a padded sequence of the same ids."""

    def __init__(self, end=torch.sigmoid):
        super().__init__()
        self.table = nn.Embedding(20, 4)
        self.first, self.second, self.end = nn.Linear(5, 1), nn.Linear(5, 1), end

    def forward(self, x):
        pooled = self.table(x["101"].long()) + self.table(x["seen"].long()).mean(1)
        inputs = torch.cat([pooled, x["D508"].float().unsqueeze(1)], dim=1)
        return torch.cat([self.end(self.first(inputs)), self.second(inputs)], dim=1)


@pytest.fixture
def rows(data):
    seen = np.stack([data["101"], data["121"]], axis=1)
    x = {"101": data["101"], "seen": seen, "D508": data["D508"]}
    return x, np.column_stack([data["click"], 1e5 * data["D508"]])


def test_it_trains_is_scored_and_saved(rows, tmp_path):
    train, valid, test = DataGenerator(*rows).generate_dataloader(
        split_ratio=[0.6, 0.2], batch_size=64
    )
    model = Own()
    trainer = MTLTrainer(
        model, TYPES, optimizer_params={"lr": 0.05}, n_epoch=8, model_path=tmp_path
    )
    log = trainer.fit(train, valid)
    auc, _ = trainer.evaluate(model, test)
    assert auc > 0.6
    best = max(line[2] for line in log)
    assert trainer.evaluate(model, valid)[0] == pytest.approx(best, abs=1e-3)
    assert np.shape(trainer.predict(model, test)) == (120, 2)
    saved = torch.load(tmp_path / "model_base_0.pth", weights_only=True)
    assert saved.keys() == Own().state_dict().keys()
    assert [score.name for score in trainer.scorecard] == ["task_0 @ all", "task_1 @ all"]
    with pytest.raises(ConfigError, match="Own is your own module, which a bundle cannot rebuild"):
        _ = trainer.bundle


def test_its_loss_is_the_cross_entropy_of_its_probabilities(rows, tmp_path):
    x, y = rows
    y = y[:, :1]
    loader, _, _ = DataGenerator(x, y).generate_dataloader(batch_size=len(y))

    class One(Own):
        def forward(self, x):
            return super().forward(x)[:, :1]

    model, twin = One(), One()
    twin.load_state_dict(model.state_dict())
    MTLTrainer(model, TYPES[:1], torch.optim.SGD, {"lr": 0.5}, n_epoch=3, model_path=tmp_path).fit(
        loader, None
    )
    sgd = torch.optim.SGD(twin.parameters(), lr=0.5)
    batch = {name: torch.from_numpy(column) for name, column in x.items()}
    for _ in range(3):
        sgd.zero_grad()
        nn.functional.binary_cross_entropy(twin(batch), torch.from_numpy(y).float()).backward()
        sgd.step()
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_a_torch_loader_and_uncertainty_weighting_work_as_well(rows, tmp_path):
    x, y = rows
    pairs = [({name: column[i] for name, column in x.items()}, y[i]) for i in range(len(y))]
    loader = DataLoader(pairs, batch_size=50)
    trainer = MTLTrainer(
        Own(), TYPES, adaptive_params={"method": "uwl"}, n_epoch=1, model_path=tmp_path,
        regularization_params={"embedding_l2": 1e-3, "dense_l1": 1e-3},
    )  # fmt: skip
    assert len(trainer.fit(loader, loader)) == 1


def test_the_parameters_of_all_tasks_are_found(rows):
    from polyrank.classic.custom import CustomModel
    from polyrank.classic.data import Rows

    model = CustomModel(Own(), [Binary(), Regression()])
    model.encode(Rows.of(*rows), "train")
    model.prepare({"task_1": (0.0, 1.0)}, {})
    assert [p is model.module.table.weight for p in model.shared_parameters()] == [True]


def test_what_it_gives_must_be_probabilities_of_the_tasks(rows, data, tmp_path):
    loader, _, _ = DataGenerator(*rows).generate_dataloader(batch_size=64)
    with pytest.raises(ConfigError, match="must hold probabilities"):
        MTLTrainer(Own(end=lambda x: x + 9), TYPES, model_path=tmp_path).fit(loader, None)
    with pytest.raises(DataError, match="got 1 task types for 2 label columns"):
        MTLTrainer(Own(), TYPES[:1], model_path=tmp_path).fit(loader, None)
    three, _, _ = DataGenerator(
        rows[0], labels(data, ["cvr", "ctr", "ctcvr"])
    ).generate_dataloader()
    with pytest.raises(ConfigError, match=r"must return .* = \(64, 3\), got \(64, 2\)"):
        MTLTrainer(Own(), ["classification"] * 3, model_path=tmp_path).fit(three, None)
