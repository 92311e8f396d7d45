"""The [train] table."""

import pytest

import polyrank as pr
from polyrank.errors import ConfigError
from polyrank.train.training import Training


def test_every_default_and_every_inherited_value_is_shown():
    table = Training(lr=0.01, dense=pr.Adam(weight_decay=1e-5)).to_table()
    assert table["embeddings"] == {
        "kind": "lazy_adam", "lr": pytest.approx(0.01 * 4 / 3), "l2": 1e-5, "prior": 3.0,
        "decay": 2.0, "betas": [0.9, 0.999], "eps": 1e-8,
    }  # fmt: skip
    assert table["dense"] == {
        "kind": "adam", "lr": 0.01, "weight_decay": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8
    }  # fmt: skip
    assert table["schedule"] == {"kind": "linear", "warmup": 0.0}
    assert table["balance"] == {"kind": "sum", "normalize": "rows"}
    assert (table["epochs"], table["batch_size"]) == ("auto", "auto")
    assert {"epochs", "batch_size", "threads", "device", "unseen_rate"} <= set(table)


def test_a_full_table_reads_back():
    training = Training(
        epochs=3,
        embeddings=pr.DenseAdam(lr=0.1, l2=0.2, prior=30.0, decay=1.0),
        dense=pr.AdamW(lr=0.3),
        balance=pr.Uncertainty(),
        stop=pr.Stop(score="buy @ all", metric="log_loss", patience=2),
        schedule=pr.Cosine(warmup=0.1),
        unseen_rate=0.0,
    )
    assert Training.from_table(training.to_table()) == training


@pytest.mark.parametrize("schedule", [pr.Linear(warmup=0.1), pr.Plateau(shrink=0.2, patience=2)])
def test_schedules_read_back(schedule):
    training = Training(schedule=schedule)
    assert Training.from_table(training.to_table()) == training


def test_rows_do_not_inherit_a_decoupled_decay():
    training = Training(dense=pr.AdamW(weight_decay=0.1))
    assert (training.embeddings.l2, training.embeddings.decay) == (0.0, 2.0)


def test_the_rate_of_rows_is_a_multiple_of_the_dense_parts(monkeypatch):
    monkeypatch.setattr("polyrank.train.training.ROW_LR_RATIO", 4.0)
    assert Training(dense=pr.Adam(lr=0.5)).embeddings.lr == 2.0
    assert Training(embeddings=pr.LazyAdam(lr=0.1)).embeddings.lr == 0.1


def test_embeddings_inherit_from_the_dense_part():
    training = Training(lr=1.0, dense=pr.Adam(lr=0.5, weight_decay=0.1))
    assert (training.embeddings.lr, training.embeddings.l2) == (0.5 * 4 / 3, 0.1)
    own = Training(embeddings=pr.LazyAdam(lr=0.2, l2=0.3))
    assert (own.embeddings.lr, own.embeddings.l2) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epoch": 3}, "train: unknown key 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs, unless it is 'auto', must be a whole number of at least 1, got 0"),
        ({"epochs": "many"}, "train.epochs: .*valid integer.*got 'many'"),
        ({"lr": 0}, "train: lr must be a number above 0, got 0"),
        ({"unseen_rate": 1}, "unseen_rate must be a number of at least 0 and below 1, got 1"),
        (
            {"schedule": {"kind": "plateau", "shrink": 1}},
            "train.schedule: Plateau: shrink must be a number above 0 and below 1, got 1",
        ),
        ({"schedule": {"kind": "liner"}}, "unknown kind 'liner'; did you mean 'linear'"),
        ({"embeddings": {"kind": "lazyadam"}}, "unknown kind 'lazyadam'; did you mean 'lazy_adam'"),
        ({"balance": {"kind": "sum", "normalise": True}}, "did you mean 'normalize'"),
        ({"stop": {"metric": "auc"}}, "train.stop: the key 'score' is missing"),
        (
            {"stop": {"score": "click @ all", "patience": 0}},
            "patience must be a whole number of at least 1, got 0",
        ),
        ({"dense": {"kind": "adam", "betas": [0.9]}}, r"train.dense.betas: \[1\]"),
    ],
)
def test_tables_are_checked(table, message):
    with pytest.raises(ConfigError, match=message):
        Training.from_table(table)


def test_a_warm_start_is_slower_by_the_root_of_the_share_of_its_rows_and_shorter():
    training = Training(dense=pr.AdamW(lr=0.1), embeddings=pr.Adagrad(lr=0.4))
    found = training.going_on(100_000, share=1 / 16)
    assert (found.lr, found.dense.lr, found.embeddings.lr) == pytest.approx((0.00075, 0.025, 0.1))
    assert found.epochs == 4 < training.pace(100_000).epochs
    assert found.batch_size == "auto"
    told = Training(epochs=3).going_on(100_000, share=1 / 16, rate=0.5)
    assert (told.epochs, told.lr) == (3, 0.0015)
    assert training.going_on(100_000, share=1.0) == Training(
        epochs=4, dense=training.dense, embeddings=training.embeddings
    )
