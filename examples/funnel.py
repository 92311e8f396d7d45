"""A funnel of three steps, click → cart → buy, and what a buyer spends. Runs in seconds.

Editors that support cells (`# %%`) run them one by one; `python examples/funnel.py` runs all.
"""

# %% [markdown]
# # A shop's log
# Users differ in how much they click, items in how often they are bought and in their price. An
# impression that never reached the cart has no purchase label (null).

# %%
import numpy as np
import polars as pl

import polyrank as pr

rng = np.random.default_rng(7)
rows, users, items = 60_000, 500, 100
user, item = rng.integers(0, users, rows), rng.integers(0, items, rows)
eager, wanted = rng.normal(0, 0.7, users)[user], rng.normal(0, 0.7, items)[item]
price = rng.lognormal(3, 0.5, items)[item]


def happens(logit):
    """Draw an event for each row."""
    return rng.random(rows) < 1 / (1 + np.exp(-logit))


click = happens(eager + 0.3 * wanted - 1.5)
cart = click & happens(wanted - 1.0)
buy = cart & happens(0.5 * wanted - 0.5 * (np.log(price) - 3))
spend = price * (1 + rng.poisson(0.3 * np.exp(eager)))  # more than one, now and then

log = pl.DataFrame(
    {"user": user, "item": item, "price": price, "click": click, "cart": cart}
).with_columns(
    buy=pl.when(pl.Series(cart)).then(pl.Series(buy)),
    spend=pl.when(pl.Series(buy)).then(pl.Series(spend)),
)
train, valid, test = log[:48_000], log[48_000:54_000], log[54_000:]

# %% [markdown]
# # The tasks
# `given` chains to any length. `buy` has two terms here: on all rows, and on the clicked ones.
# `spend` is a regression, with a target only for buyers.

# %%
schema = pr.Schema(
    features=[
        pr.SparseFeature("user"),
        pr.SparseFeature("item"),
        pr.DenseFeature("price", encoding="log"),
    ],
    tasks=[
        pr.Task("click"),
        pr.Task("cart", given="click"),
        pr.Task("buy", given="cart", space=("all", "click")),
        pr.Task("spend", kind="regression", given="buy"),
    ],
    keys=pr.Keys(user="user"),
)
print(schema.objective)

# %% [markdown]
# # Fit and score
# With `normalize` each term starts at a loss near 1, whatever its kind and rarity.

# %%
bundle = pr.fit(
    schema,
    pr.Model(trunk=pr.MMoE(experts=4, hidden=[16]), tower=[8], embed_dim=8),
    train=train,
    valid=valid,
    epochs=8,
    batch_size=1024,
    lr=5e-3,
    balance=pr.Sum(normalize=True),
    seed=1,
)
scorecard = bundle.evaluate(test)
print(scorecard)

# %% [markdown]
# # Columns that a ranker uses
# `p_buy` is the joint probability of the whole path; `spend` is its expectation per impression, and
# `spend_given_buy` that of a buyer.

# %%
predicted = bundle.predict(test)
print(predicted.columns)
best = predicted.with_columns(test["user", "item"]).sort("spend", descending=True).head(5)
print(best.select("user", "item", "p_click", "p_buy", "spend_given_buy", "spend"))
