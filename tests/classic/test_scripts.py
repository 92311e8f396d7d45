"""Scripts of the classic API, written from its documented calls, run as they stand."""

import pytest
from tests.classic.test_script import ran

HEAD = """
import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

torch.manual_seed(0)
draw = np.random.default_rng(0)
rows = 3_000
x = {"user": draw.integers(0, 20, rows), "item": draw.integers(0, 30, rows)}
x["price"] = draw.random(rows)
chance = 1 / (1 + np.exp(-((x["user"] - 10) / 3 + (x["item"] - 15) / 6)))
click = (draw.random(rows) < chance).astype(int)
buy = click * (draw.random(rows) < x["item"] / 30)
user = SparseFeature("user", vocab_size=x["user"].max() + 1, embed_dim=8)
item = SparseFeature("item", vocab_size=x["item"].max() + 1, embed_dim=8)
price = DenseFeature("price")


def run(model, types, y, **options):
    loaders = DataGenerator(x, y).generate_dataloader(split_ratio=[0.7, 0.1], batch_size=128)
    train, val, test = loaders
    trainer = MTLTrainer(
        model, task_types=types, optimizer_params={"lr": 1e-2, "weight_decay": 1e-6}, n_epoch=6,
        earlystop_patience=3, device="cpu", model_path="./", **options,
    )
    trainer.fit(train, val)
    predicted = trainer.predict(trainer.model, test)
    assert len(predicted) == len(test.dataset), len(predicted)
    return trainer.evaluate(trainer.model, test)


def mmoe(features, types, n_expert=4):
    return MMOE(features, types, n_expert, expert_params={"dims": [16]},
                tower_params_list=[{"dims": [8]} for _ in types])


two = ["classification", "classification"]
labels = np.stack([buy, click], axis=1)
"""

OWN = """
class Mine(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = features
        ids = [each for each in features if isinstance(each, SparseFeature)]
        self.tables = torch.nn.ModuleDict(
            {each.name: torch.nn.Embedding(each.vocab_size, each.embed_dim) for each in ids}
        )
        width = sum(each.embed_dim for each in features)
        self.shared = torch.nn.Sequential(torch.nn.Linear(width, 16), torch.nn.ReLU())
        self.towers = torch.nn.ModuleList(torch.nn.Linear(16, 1) for _ in range(2))

    def forward(self, x):
        found = [table(x[name].long()) for name, table in self.tables.items()]
        found += [x["price"].float().unsqueeze(1)]
        shared = self.shared(torch.cat(found, dim=1))
        return torch.cat([torch.sigmoid(tower(shared)) for tower in self.towers], dim=1)


scores = run(Mine([user, item, price]), two, labels)
assert min(scores) > 0.7, scores
assert torch.load("model_base_0.pth", weights_only=True)
"""

SEQUENCES = """
lengths = draw.integers(0, 7, rows)
inside = np.arange(6) < lengths[:, None]
x["seen"] = np.where(inside, draw.integers(1, 30, (rows, 6)), 0)
liked = (x["seen"] > 20).any(axis=1)
click = (draw.random(rows) < np.where(liked, 0.8, 0.2)).astype(int)
labels = np.stack([click * buy, click, click * buy], axis=1)
seen = SequenceFeature("seen", vocab_size=30, embed_dim=8, pooling="mean", shared_with="item")
last = SequenceFeature("seen", 30, 8, "sum", padding_idx=0)
scores = run(mmoe([user, item, price, seen], two), two, labels[:, :2])
assert scores[1] > 0.7, scores
scores = run(
    ESMM([user, last], [item], cvr_params={"dims": [8]}, ctr_params={"dims": [8]}),
    two + two[:1], labels,
)
assert scores[1] > 0.7, scores
"""

MIXED = """
spend = 300_000 + 200_000 * x["price"] + 4_000 * x["item"] + draw.normal(0, 5_000, rows)
alone = run(mmoe([user, item, price], two[:1]), two[:1], click[:, None])[0]
types = ["classification", "regression"]
mixed = run(mmoe([user, item, price], types), types, np.stack([click, spend], axis=1))
assert alone > 0.75, alone
assert mixed[0] >= 0.95 * alone, (mixed, alone)
assert mixed[1] < 0.3 * spend.var(), (mixed, spend.var())
late = run(mmoe([user, item, price], types[::-1]), types[::-1], np.stack([spend, click], axis=1),
           earlystop_taskid=1)
assert late[1] >= 0.95 * alone, (late, alone)
"""

ADAPTIVE = """
adaptive = {{"method": "{method}"}}
scores = run(mmoe([user, item, price], two), two, labels, adaptive_params=adaptive)
assert min(scores) > 0.7, scores
spend = 300_000 + 200_000 * x["price"]
types = ["classification", "regression"]
mixed = run(mmoe([user, item, price], types), types, np.stack([click, spend], axis=1),
            adaptive_params=adaptive, earlystop_taskid=1)  # task 0 has its best by chance, early
assert mixed[0] > 0.7, mixed
assert mixed[1] < 0.3 * spend.var(), mixed
"""

SCRIPTS = {
    "own": OWN,
    "sequences": SEQUENCES,
    "mixed": MIXED,
    **{method: ADAPTIVE.format(method=method) for method in ("uwl", "gradnorm", "metabalance")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_as_it_stands(name, tmp_path):
    (tmp_path / "script.py").write_text(f"{HEAD}{SCRIPTS[name]}\nprint('done')\n", encoding="utf-8")
    answer = ran(tmp_path, "-W", "error", "-m", "polyrank.classic", "script.py")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "done\n"
