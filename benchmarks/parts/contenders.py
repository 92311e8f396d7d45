"""The contenders: polyrank, Torch-RecHub and DeepCTR-Torch, each by its public interface.

A contender is built for a model, a log and a batch size. `train(seconds)` continues its training
for at least that long and returns (rows, seconds) of the steps it took, with loading and without
metrics.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import replace
from importlib.util import find_spec
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

import polyrank as pr
from parts.log import ITEM, VOCABULARY, Log
from parts.ours import COMPILES, DEFAULT, compiled, embedding_optimizer, trainer_of
from polyrank.data.read import read
from polyrank.data.table import Table, encode
from polyrank.data.vocab import Vocab
from polyrank.train.fit import isolated
from polyrank.train.loop import Progress
from polyrank.train.optim import EMBEDDINGS
from polyrank.train.training import Training

LR, DECAY = 1e-3, 1e-5  # Torch-RecHub's defaults
WIDTH = {"ESMM": 16, "MMoE": 4}
PLAIN: dict[str, Any] = {"wide": False, "interaction": False, "field_dropout": 0.0}
PEER = "Torch-RecHub"  # whom the ratios are to
OURS = (DEFAULT, "rowwise_adagrad", "adam")
STAGES = "wide rows and cross"  # a paper's model with all that `pr.Model` adds to one by default


class Contender(ABC):
    """A model in training."""

    @abstractmethod
    def train(self, seconds: float) -> tuple[int, float]:
        """Train for at least that long, and at least one step; return rows and seconds."""


class Ours(Contender):
    """polyrank's loop, consumed event by event as in `pr.fit`."""

    def __init__(self, kind: str, graph: bool, model: str, table: Table, vocab: Vocab,
                 batch: int, threads: int, *, stages: bool = False) -> None:  # fmt: skip
        training = Training(
            epochs=1_000_000, batch_size=batch, lr=LR, threads=threads,
            dense=pr.Adam(weight_decay=DECAY), embeddings=embedding_optimizer(kind),
        )  # fmt: skip
        self.training = compiled(training) if graph else training
        spec = (
            pr.ESMM(tower=[16, 8], embed_dim=WIDTH[model], norm="batch", dropout=0)
            if model == "ESMM"
            else pr.Model(trunk=pr.MMoE(experts=8, hidden=[16]), tower=[8], norm="batch",
                          embed_dim=WIDTH[model], dropout=0, **PLAIN)
        )  # fmt: skip
        if stages:
            usual = pr.Model()
            spec = replace(spec, **{name: getattr(usual, name) for name in PLAIN})
        self.events = trainer_of(spec, vocab, {"train": table}, self.training, seed=0).run()
        self.last: Progress | None = None

    def train(self, seconds: float) -> tuple[int, float]:
        rows, spent, resumed = 0, 0.0, True
        with isolated(0, self.training):
            while spent < seconds or not rows:
                started = perf_counter()
                event = next(self.events)
                wall = perf_counter() - started
                before = self.last if self.last and self.last.event == "step" else None
                self.last = event
                # What follows an epoch's last step is no step: its own clock leaves that out, but
                # it ran on while the other contenders had their turn.
                if event.event == "epoch":
                    if before is not None and resumed:
                        resumed = False
                        continue
                    wall = event.seconds - (before.seconds if before else 0.0)
                resumed = False
                rows += event.rows - (before.rows if before else 0)
                spent += wall
        return rows, spent


class Peer(Contender):
    """A library that only trains whole epochs: on as many rows as fill a round."""

    def __init__(self, log: Log, batch: int) -> None:
        self.log, self.batch = log, batch
        self.rate = 0.0

    def train(self, seconds: float) -> tuple[int, float]:
        rows, spent = 0, 0.0
        while spent < seconds or not rows:
            steps = max(round(1.1 * self.rate * (seconds - spent) / self.batch), 1)
            size = min(steps, len(self.log) // self.batch) * self.batch
            took = self.epoch(self.log.first(size))
            # The first step allocates: the rate is the best so far.
            self.rate = max(self.rate, size / took)
            rows, spent = rows + size, spent + took
        return rows, spent

    @abstractmethod
    def epoch(self, log: Log) -> float:
        """Train one epoch on a log; return the seconds."""


class TorchRecHub(Peer):
    """DataGenerator and MTLTrainer as in the tutorial, without worker processes.

    With `num_workers=4` it was 0.75 to 1.24 times as fast.
    """

    def __init__(self, model: str, log: Log, batch: int) -> None:
        super().__init__(log, batch)
        from torch_rechub.basic.features import SparseFeature
        from torch_rechub.models.multi_task import ESMM, MMOE
        from torch_rechub.trainers import MTLTrainer

        features = {
            name: SparseFeature(name, vocab_size=size, embed_dim=WIDTH[model])
            for name, size in VOCABULARY.items()
        }
        self.tasks = 3 if model == "ESMM" else 2
        types = ["classification"] * self.tasks
        if model == "ESMM":
            user = [each for name, each in features.items() if name not in ITEM]
            item, tower = [features[name] for name in ITEM], {"dims": [16, 8]}
            network = ESMM(user, item, cvr_params=tower, ctr_params=dict(tower))
        else:
            towers = [{"dims": [8]}, {"dims": [8]}]
            network = MMOE([*features.values()], types, 8, {"dims": [16]}, towers)
        self.trainer = MTLTrainer(
            network, types, optimizer_params={"lr": LR, "weight_decay": DECAY},
            model_path=tempfile.gettempdir(),
        )  # fmt: skip

    def epoch(self, log: Log) -> float:
        from torch_rechub.utils.data import DataGenerator

        labels = [log.buy, log.click, log.buy * log.click][: self.tasks]
        y = np.stack(labels, axis=1)
        loader, _, _ = DataGenerator(log.ids, y).generate_dataloader(
            x_val=log.ids, y_val=y, x_test=log.ids, y_test=y, batch_size=self.batch, num_workers=0
        )
        with silence():
            started = perf_counter()
            self.trainer.train_one_epoch(loader)
            return perf_counter() - started


class DeepCTR(Peer):
    """compile and fit with its own Adam and its own l2; no metrics, no progress bar."""

    def __init__(self, model: str, log: Log, batch: int) -> None:
        super().__init__(log, batch)
        library = deepctr_torch()
        columns = [
            library.inputs.SparseFeat(name, size, embedding_dim=WIDTH[model])
            for name, size in VOCABULARY.items()
        ]
        if model == "ESMM":
            self.network = library.models.ESMM(
                columns, tower_dnn_hidden_units=(16, 8), dnn_use_bn=True
            )
        else:
            self.network = library.models.MMOE(
                columns, num_experts=8, expert_dnn_hidden_units=(16,), gate_dnn_hidden_units=(),
                tower_dnn_hidden_units=(8,), dnn_use_bn=True,
            )  # fmt: skip
        self.network.compile("adam", loss=["binary_crossentropy"] * 2)

    def epoch(self, log: Log) -> float:
        y = np.stack([log.click, log.buy], axis=1)  # its ESMM names them ctr and ctcvr
        with silence():
            started = perf_counter()
            self.network.fit(log.ids, y, batch_size=self.batch, epochs=1, verbose=0)
            return perf_counter() - started


def deepctr_torch() -> ModuleType:
    """Import DeepCTR-Torch without the request that its import sends to a server.

    It asks for its newest version through the package `requests`, which it does not declare either.
    """
    offline = ModuleType("requests")

    def get(url: str) -> None:
        raise OSError(f"a benchmark must not use the network, got {url}")

    vars(offline)["get"] = get
    known = sys.modules.get("requests")
    sys.modules["requests"] = offline
    try:
        with silence():
            import deepctr_torch
            import deepctr_torch.inputs
            import deepctr_torch.models
    finally:
        del sys.modules["requests"]
        if known is not None:
            sys.modules["requests"] = known
    return deepctr_torch


@contextlib.contextmanager
def silence() -> Generator[None]:
    """Swallow what a library prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def absent() -> dict[str, str]:
    """Return the contenders that cannot be measured here, and why."""
    peers = {PEER: "torch_rechub", "DeepCTR-Torch": "deepctr_torch"}
    found = {
        name: f"{module} is not installed (the extra [bench])"
        for name, module in peers.items()
        if find_spec(module) is None
    }
    for kind in OURS:
        if kind not in EMBEDDINGS:
            found[f"polyrank {kind}"] = "this polyrank has no such embedding optimiser"
    if not COMPILES:
        found["polyrank …, compiled"] = "this polyrank has no [train] compile"
    return found


def contenders(
    model: str, log: Log, batch: int, threads: int
) -> dict[str, Callable[[], Contender]]:
    """Return how to build each contender that can be measured here."""
    missing = absent()
    found: dict[str, Callable[[], Contender]] = {}
    if PEER not in missing:
        found[PEER] = lambda: TorchRecHub(model, log, batch)
    if "DeepCTR-Torch" not in missing:
        found["DeepCTR-Torch"] = lambda: DeepCTR(model, log, batch)
    encoded = _encoded(model, log)
    kinds = [*dict.fromkeys(OURS), *(kind for kind in EMBEDDINGS if kind not in OURS)]
    for kind in (kind for kind in kinds if kind in EMBEDDINGS):
        for graph in (False, True) if COMPILES else (False,):
            name = f"polyrank {kind}{', compiled' if graph else ''}"
            found[name] = _ours(kind, graph, model, encoded, batch, threads)
    found[f"polyrank {DEFAULT}, {STAGES}"] = lambda: Ours(
        DEFAULT, False, model, *encoded(), batch, threads, stages=True
    )
    return found


def _ours(
    kind: str, graph: bool, model: str, encoded: Callable[[], tuple[Table, Vocab]], batch: int,
    threads: int,
) -> Callable[[], Contender]:  # fmt: skip
    return lambda: Ours(kind, graph, model, *encoded(), batch, threads)


def _encoded(model: str, log: Log) -> Callable[[], tuple[Table, Vocab]]:
    """Return a function that encodes a log once for all runs on it."""
    buy = pr.Task("buy", given="click", space="all") if model == "ESMM" else pr.Task("buy")
    schema = pr.Schema(
        features=[pr.SparseFeature(name, vocab_size=size) for name, size in VOCABULARY.items()],
        tasks=[pr.Task("click"), buy],
    )
    done: list[tuple[Table, Vocab]] = []

    def encoded() -> tuple[Table, Vocab]:
        if not done:
            frame = read({**log.ids, "click": log.click, "buy": log.buy}, schema)
            vocab = Vocab.fit(frame, schema)
            done.append((encode(frame, schema, vocab), vocab))
        return done[0]

    return encoded
