"""A funnel of three events whose purchases come late, and a small model of it.

For the contracts of what may take the place of a task's likelihood.
"""

import numpy as np
import polars as pl

import polyrank as pr

PLAIN = {"wide": False, "trees": False, "interaction": False, "field_dropout": 0.0}
COLUMNS = [
    "p_click", "p_cart_given_click", "p_cart", "p_buy_given_cart", "p_buy",
]  # fmt: skip
DAY = 86_400


def log(size=500, seed=1):
    """Thirty days of a funnel whose purchases come 3 days late on average."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, size)
    time = np.sort(rng.integers(0, 30 * DAY, size))
    click = rng.random(size) < 0.3 + 0.05 * item
    cart = click & (rng.random(size) < 0.7)
    bought = time + rng.exponential(3 * DAY, size)
    buy = cart & (rng.random(size) < 0.5) & (bought <= time[-1])
    return pl.DataFrame(
        {
            "item": item,
            "time": time,
            "click": click.astype(int),
            "cart": np.where(click, cart, np.nan),
            "buy": np.where(cart, buy, np.nan),
            "buy_time": np.where(buy, bought, np.nan),
        }
    )


def model(**more):
    return pr.Model(trunk=pr.MMoE(experts=2, hidden=[4]), tower=[4], embed_dim=4, **PLAIN | more)
