"""A generated sample with the columns of the tutorial."""

import numpy as np
import pytest
import torch

DENSE = ["D109_14", "D110_14", "D127_14", "D150_14", "D508", "D509", "D702", "D853"]
SPARSE = [
    *("101", "121", "122", "124", "125", "126", "127", "128", "129", "205", "206", "207", "210"),
    *("216", "508", "509", "702", "853", "301", "109_14", "110_14", "127_14", "150_14"),
]
ITEM = ["129", "205", "206", "207", "210", "216"]


def sample(rows, seed=0):
    """Columns of the tutorial, with a click and a purchase that two of them drive."""
    generator = np.random.default_rng(seed)
    data = {name: generator.integers(0, 5 + 3 * i, rows) for i, name in enumerate(SPARSE)}
    data |= {name: generator.random(rows).round(4) for name in DENSE}
    click = 1 / (1 + np.exp(-(data["101"] - 2.5 + data["D508"])))
    data["click"] = (generator.random(rows) < click).astype(int)
    buy = 1 / (1 + np.exp(-(data["121"] - 4.0)))
    data["purchase"] = data["click"] * (generator.random(rows) < buy)
    return data


def labels(data, columns):
    found = {"cvr": data["purchase"], "ctr": data["click"]}
    found["ctcvr"] = found["cvr"] * found["ctr"]
    return np.stack([found[name] for name in columns], axis=1).astype(float)


@pytest.fixture(scope="session")
def data():
    return sample(600)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def esmm(data, tmp_path):
    """Model, loaders and a trainer of the sample."""
    from polyrank.classic import ESMM, DataGenerator, MTLTrainer, SparseFeature

    def make(used=SPARSE, x=None, y=None, **options):
        columns = {name: data[name] for name in used} if x is None else x
        features = {name: SparseFeature(name, data[name].max() + 1, embed_dim=4) for name in used}
        model = ESMM(
            [features[name] for name in used if name not in ITEM],
            [features[name] for name in used if name in ITEM],
            cvr_params={"dims": [8, 4]},
            ctr_params={"dims": [8, 4]},
        )
        y = labels(data, ["cvr", "ctr", "ctcvr"]) if y is None else y
        loaders = DataGenerator(columns, y).generate_dataloader(
            split_ratio=[0.6, 0.2], batch_size=64
        )
        arguments = {
            "task_types": ["classification"] * 3,
            "n_epoch": 2,
            "optimizer_params": {"lr": 0.01, "weight_decay": 1e-5},
            "model_path": tmp_path / "saved",
        }
        return model, loaders, MTLTrainer(model, **(arguments | options))

    return make


@pytest.fixture
def mmoe(data, tmp_path):
    from polyrank.classic import MMOE, DataGenerator, DenseFeature, MTLTrainer, SparseFeature

    def make(types=("classification", "classification"), y=None, used=SPARSE[:6], **options):
        features = [SparseFeature(name, data[name].max() + 1, embed_dim=4) for name in used]
        features += [DenseFeature(name) for name in DENSE]
        model = MMOE(
            features,
            list(types),
            3,
            expert_params={"dims": [8]},
            tower_params_list=[{"dims": [4]} for _ in types],
        )
        x = {name: data[name] for name in [*used, *DENSE]}
        y = labels(data, ["cvr", "ctr"]) if y is None else y
        loaders = DataGenerator(x, y).generate_dataloader(split_ratio=[0.6, 0.2], batch_size=64)
        arguments = {
            "task_types": list(types),
            "n_epoch": 2,
            "optimizer_params": {"lr": 0.01, "weight_decay": 1e-5},
            "model_path": tmp_path / "saved",
        }
        return model, loaders, MTLTrainer(model, **(arguments | options))

    return make
