"""`fit`: what a user calls; the run itself is in `learn`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyrank import spec
from polyrank.balance import Balance, Sum
from polyrank.bundle.model import Bundle
from polyrank.data.labels import Orphans
from polyrank.data.sampling import Sampling
from polyrank.errors import ConfigError
from polyrank.features import names_by_kind
from polyrank.metrics.fusion import Fusion
from polyrank.models.model import Model
from polyrank.schema import Schema
from polyrank.train.learn import Observer, learn
from polyrank.train.optim import Adam, Constant, Cosine, EmbeddingOptimizer, LazyAdam
from polyrank.train.sources import Sources
from polyrank.train.training import Stop, Training


def fit(
    schema: Schema,
    model: Model,
    *,
    train: Any,
    valid: Any = None,
    test: Any = None,
    orphans: Orphans = "error",
    sampling: Sampling | None = None,
    seed: int = 0,
    epochs: int = 5,
    batch_size: int = 1024,
    lr: float = 3e-3,
    embeddings: EmbeddingOptimizer = LazyAdam(),  # noqa: B008 (frozen)
    dense: Adam = Adam(),  # noqa: B008 (frozen)
    balance: Balance = Sum(),  # noqa: B008 (frozen)
    stop: Stop | None = None,
    schedule: Constant | Cosine = Constant(),  # noqa: B008 (frozen)
    threads: int = 1,
    device: str = "cpu",
    unseen_rate: float = 0.001,
    compile: bool = False,
    fusion: Fusion | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    cache: bool = True,
    progress: Observer | None = None,
) -> Bundle:
    """Learn a model from a log and return it, fitted.

    Args:
        schema: features, tasks and keys.
        model: the network's spec.
        train: a path or glob (CSV, Parquet), a polars or pandas frame, a pyarrow table, or a dict
            of arrays.
        valid: likewise; chooses the epoch that is kept, and calibrates its heads. Without it, the
            last one is, as it was learnt.
        test: likewise; scored once, after training.
        orphans: "error", "drop" or "zero": what becomes of a child label without its parent.
        sampling: how negatives were down-sampled before this log was written; what is predicted
            is the probability in the whole log.
        seed: of weights, shuffling and dropout; torch's own generator is left as it was.
        epochs: see `Training`, as for all up to `compile`.
        batch_size: rows of a step.
        lr: step size.
        embeddings: optimiser of embedding rows.
        dense: optimiser of all other parameters.
        balance: how several losses become one step.
        stop: early stopping.
        schedule: of the learning rate.
        threads: of torch, while training.
        device: a torch device.
        unseen_rate: probability with which a training id is replaced by row 0.
        compile: whether the dense part of a step is compiled into one graph.
        fusion: weights of a fused score, which the scorecard then measures as well.
        out: a run folder to write: log, checkpoints and the bundle.
        resume: go on with the run in `out`.
        force: replace the run in `out`.
        cache: keep the encoded rows of files beside `out`, so that the next run over the same files
            starts at once.
        progress: called with each `Progress`.

    Warns:
        LeakageWarning: a feature that may state a label: alone it ranks that label with an
            out-of-fold AUC above .95. `polyrank check` finds more.

    Raises:
        ConfigError: options that contradict each other or the schema.
        DataError: rows that contradict the schema.
        TrainingError: a loss that is not finite, or a full disk.

    Example:
        >>> from polyrank.models.model import ESMM
        >>> from polyrank.schema import SparseFeature, Task
        >>> schema = Schema([SparseFeature("item")], [Task("click"), Task("buy", given="click")])
        >>> rows = {"item": [1, 2] * 8, "click": [1, 0, 1, 1] * 4, "buy": [1, 0, 0, 0] * 4}
        >>> bundle = fit(schema, ESMM(), train=rows, epochs=1)
        >>> bundle.predict({"item": [2]}).columns
        ['p_click', 'p_buy_given_click', 'p_buy']
    """
    if not isinstance(schema, Schema):
        raise ConfigError(f"schema is a Schema(features, tasks), however: {type(schema).__name__}")
    if not isinstance(model, Model):
        raise ConfigError(
            f"model is a Model, ESMM(…) or Model(trunk=MMoE(…)), however: {type(model).__name__}"
        )
    if fusion is not None and not isinstance(fusion, Fusion):
        raise ConfigError(f"fusion is a Fusion(weights), however: {type(fusion).__name__}")
    training = Training(
        epochs=epochs, batch_size=batch_size, lr=lr, embeddings=embeddings, dense=dense,
        balance=balance, stop=stop, schedule=schedule, threads=threads, device=device,
        unseen_rate=unseen_rate, compile=compile,
    )  # fmt: skip
    sources = Sources(train, valid, test, orphans, cache=cache, sampling=sampling)
    paths = {
        name: str(Path(source).absolute())
        for name in ("train", "valid", "test")
        if isinstance(source := getattr(sources, name), str | Path)
    }
    data = {**paths, "orphans": orphans, "cache": cache, "sampling": sampling}
    config = config_tables("fit", seed, spec.to_table(data), schema, model, training, fusion)
    return learn(
        schema, model, training, sources, seed=seed, config=config, fusion=fusion,
        out=out, resume=resume, force=force, progress=progress,
    )  # fmt: skip


def config_tables(
    name: str,
    seed: int,
    data: Mapping[str, Any],
    schema: Schema,
    model: Model,
    training: Training,
    fusion: Fusion | None = None,
) -> dict[str, Any]:
    """Return an experiment as the plain tables of its TOML file, every default shown."""
    features: dict[str, Any] = {**names_by_kind(schema.features)}
    for feature in schema.features:
        options = spec.to_table(feature)
        del options["name"]
        features[feature.name] = options
    tables = {
        "name": name,
        "seed": spec.to_table(seed),
        "data": dict(data),
        "features": features,
        "keys": spec.to_table(schema.keys),
        "task": spec.to_table(schema.tasks),
        "model": model.to_table(),
        "train": training.to_table(),
    }
    return tables if fusion is None else {**tables, "fusion": fusion.to_table()}
