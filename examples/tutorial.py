"""ESMM, then MMOE with the API of Torch-RecHub, then the same natively. Runs in seconds.

Editors that support cells (`# %%`) run them one by one; `python examples/tutorial.py` runs all.
"""

# %% [markdown]
# # The files
# The columns of the processed Ali-CCP: `click`, `purchase`, 23 of ids and 8 of numbers (`D…`). The
# rows are generated, more than the tutorial's sample has: with one purchase any AUC is noise.

# %%
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch

import polyrank as pr
from polyrank.classic import ESMM, MMOE, DataGenerator, DenseFeature, MTLTrainer, SparseFeature
from polyrank.datasets.ali_ccp import write_tutorial

with TemporaryDirectory() as folder:
    parts = [pl.read_csv(path) for path in write_tutorial(folder, rows=40_000, seed=1)]
parts = [part.rename({"purchase": "cvr_label", "click": "ctr_label"}) for part in parts]
table = pl.concat(parts).with_columns(ctcvr_label=pl.col("cvr_label") * pl.col("ctr_label"))
data = {name: table[name].to_numpy() for name in table.columns}
print([part.height for part in parts])

# %% [markdown]
# # Features
# `ctcvr_label` is a label and no feature: "all columns but cvr and ctr" would leave it in. The
# vocabulary of an id is its largest value plus one, over all three files.

# %%
labels = ["cvr_label", "ctr_label", "ctcvr_label"]
dense = [name for name in data if name.startswith("D")]
sparse = [name for name in data if name not in (*dense, *labels)]
item = ["129", "205", "206", "207", "210", "216"]
user = [name for name in sparse if name not in item]
print(len(sparse), "columns of ids,", len(dense), "of numbers")


def features(names, embed_dim):
    """Return a feature for each column of ids."""
    return [SparseFeature(name, data[name].max() + 1, embed_dim=embed_dim) for name in names]


def loaders(names, columns):
    """Return the loaders of training, validation and test rows."""
    edges = np.cumsum([part.height for part in parts])[:-1]
    x = [
        dict(zip(names, each, strict=True))
        for each in zip(*(np.split(data[name], edges) for name in names), strict=True)
    ]
    y = np.split(np.stack([data[name] for name in columns], axis=1), edges)
    return DataGenerator(x[0], y[0]).generate_dataloader(
        x_val=x[1], y_val=y[1], x_test=x[2], y_test=y[2], batch_size=512
    )


def score(model, task_types, names, columns):
    """Train, print the test AUC of each label column, and return the trainer."""
    train, valid, test = loaders(names, columns)
    with TemporaryDirectory() as saved:
        trainer = MTLTrainer(
            model,
            task_types=task_types,
            optimizer_params={"lr": 5e-3, "weight_decay": 1e-5},
            n_epoch=3,
            earlystop_patience=3,
            model_path=saved,
        )
        trainer.fit(train, valid)
    for name, auc in zip(columns, trainer.evaluate(trainer.model, test), strict=True):
        print(f"{name:12} {auc:.3f}")
    return trainer


# %% [markdown]
# # ESMM
# P(purchase | click) is learned on all impressions, through its product with P(click). The label
# columns are `[cvr, ctr, ctcvr]`, in this order; `evaluate` has prediction i against column i.

# %%
torch.manual_seed(2022)
esmm = ESMM(
    features(user, 16),
    features(item, 16),
    cvr_params={"dims": [16, 8]},
    ctr_params={"dims": [16, 8]},
)
trainer = score(esmm, ["classification"] * 3, sparse, labels)
print(trainer.scorecard)

# %% [markdown]
# # MMOE
# Independent tasks over shared experts, and numbers beside the ids.

# %%
torch.manual_seed(2022)
mmoe = MMOE(
    [*features(sparse, 4), *map(DenseFeature, dense)],
    ["classification", "classification"],
    8,
    expert_params={"dims": [16]},
    tower_params_list=[{"dims": [8]}, {"dims": [8]}],
)
score(mmoe, ["classification"] * 2, [*sparse, *dense], labels[:2])

# %% [markdown]
# # The same natively
# Tasks name what happens given what, instead of relying on an order of columns; how they share
# parameters is another choice, so MMOE may have ESMM's supervision. Vocabularies are fitted.

# %%
schema = pr.Schema(
    features=[*map(pr.SparseFeature, sparse), *map(pr.DenseFeature, dense)],
    tasks=[
        pr.Task("click", label="ctr_label"),
        pr.Task("buy", label="cvr_label", given="click"),
    ],
)
train, valid, test = parts
bundle = pr.fit(
    schema,
    pr.Model(trunk=pr.MMoE(experts=8, hidden=[16]), tower=[8], embed_dim=4),
    train=train,
    valid=valid,
    epochs=3,
    batch_size=512,
    lr=5e-3,
    seed=1,
)
scorecard = bundle.evaluate(test)
print(scorecard)
predicted = bundle.predict(test)
print(predicted.head(3))
