"""Click and purchase from a log with known truth: fit, score, predict, save. Runs in seconds.

Editors that support cells (`# %%`) run them one by one; `python examples/quickstart.py` runs all.
"""

# %% [markdown]
# # A log, and what it means
# The generated log has users, items, fields and numbers, and for each impression the probabilities
# from which it was drawn. Your own log may be a path, a glob, a polars or pandas frame, or arrays.

# %%
from tempfile import TemporaryDirectory

import polyrank as pr
from polyrank.datasets import load

train, valid, test, schema = load("synthetic", rows=60_000, seed=1, users=2_000, items=500)
print(schema.objective)

# %% [markdown]
# # Fit
# `buy` is given `click` and learned on all rows, so this is ESMM's supervision, on MMoE's trunk.
# Validation rows decide which epoch is the best and is kept.

# %%
model = pr.Model(trunk=pr.MMoE(experts=4, hidden=[16]), tower=[8], embed_dim=8)
bundle = pr.fit(schema, model, train=train, valid=valid, epochs=3, lr=3e-3, seed=1)
print(bundle.history)

# %% [markdown]
# # Score
# Every score names its rows. The truth is known here, so each score has the best AUC that any model
# can reach (`oracle_auc`), and P(buy | click) is scored on impressions that nobody clicked.

# %%
scorecard = bundle.evaluate(test)
print(scorecard)

# %% [markdown]
# # Predict, save, load

# %%
predicted = bundle.predict(test)
print(predicted.head())

with TemporaryDirectory() as folder:
    bundle.save(f"{folder}/bundle")
    again = pr.load(f"{folder}/bundle")
    print("the same from the saved bundle:", again.predict(test).equals(predicted))
