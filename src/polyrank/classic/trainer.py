"""The trainer, by its classic name and arguments, over the engine's loop.

Letters: N rows.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from polyrank import spec
from polyrank.balance import BALANCES, Balance, Sum
from polyrank.bundle.model import Bundle, log_counts
from polyrank.classic.custom import CustomModel
from polyrank.classic.data import Rows, batch_size_of, rows_of
from polyrank.classic.models import ClassicModel, kinds_of, predictions_of
from polyrank.classic.optimizers import EpochSchedule, Penalty, chosen
from polyrank.data.labels import HiddenLabel, find_leak
from polyrank.errors import ConfigError, LeakageWarning, did_you_mean
from polyrank.labels import LabelKind
from polyrank.metrics.binary import auc
from polyrank.metrics.scorecard import Scorecard, scorecard
from polyrank.metrics.undefined import Undefined
from polyrank.objective.losses import Supervision
from polyrank.train.fit import isolated
from polyrank.train.heads import base_rates
from polyrank.train.loop import Trainer
from polyrank.train.training import Training

logger = logging.getLogger(__name__)

_warned: WeakSet[Any] = WeakSet()  # data sets, of features that equal a label
METHODS = {"uwl": "uncertainty", "gradnorm": "gradnorm", "metabalance": "metabalance"}


class MTLTrainer:
    """Trains a multi-task model, and scores it.

    Args:
        model: one of `polyrank.classic`, or an `nn.Module` from {name: (rows,)} to (rows, tasks):
            a probability for a classification.
        task_types: "classification" or "regression", one per label column.
        optimizer_fn: a class of `torch.optim`, used exactly, on all parameters. None takes the
            engine's: Adam, which on embeddings touches only the rows of the batch.
        optimizer_params: its arguments; None is lr 1e-3 and weight_decay 1e-5.
        regularization_params: embedding_l1, embedding_l2, dense_l1, dense_l2.
        scheduler_fn: a class of `torch.optim.lr_scheduler`, stepped after each epoch.
        scheduler_params: its arguments.
        adaptive_params: {"method": "uwl" | "gradnorm" | "metabalance"}, and the method's options.
        n_epoch: passes over the training rows.
        earlystop_taskid: the label column whose validation score decides which epoch is better.
        earlystop_patience: epochs without a new best before training stops.
        device: a torch device.
        gpus: at most one.
        model_path: folder of the saved weights.
        model_logger: not supported.
        earlystop_mode: not needed: a metric knows its direction.

    Raises:
        ConfigError: an option that is not supported, and what to use instead.

    Attributes:
        model: has the best epoch's weights after `fit`.
        history: one row per epoch.
        scorecard: of the rows scored last, in named spaces: validation rows after `fit`.
        unseen: ids out of range in each split, by feature.
    """

    def __init__(
        self,
        model: nn.Module,
        task_types: Sequence[str],
        optimizer_fn: Callable[..., torch.optim.Optimizer] | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        regularization_params: Mapping[str, float] | None = None,
        scheduler_fn: Callable[..., Any] | None = None,
        scheduler_params: Mapping[str, Any] | None = None,
        adaptive_params: Mapping[str, Any] | None = None,
        n_epoch: int = 10,
        earlystop_taskid: int = 0,
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        model_path: str | Path = "./",
        model_logger: Any = None,
        earlystop_mode: str | None = None,
    ) -> None:
        if gpus is not None and len(gpus) > 1:
            raise ConfigError(
                f"gpus={list(gpus)}: several GPUs are not supported (torch itself has deprecated "
                'nn.DataParallel): leave gpus out, and name one, device="cuda:0"'
            )
        if model_logger is not None:
            raise ConfigError(
                "model_logger is not supported: trainer.history has one row per epoch, for any "
                "logger; or use polyrank.fit(…, out=…), which writes log.jsonl"
            )
        self.model, self.task_types, self.n_epoch = model, list(task_types), n_epoch
        self.device, self.model_path = _device(device), Path(model_path)
        self.penalty = Penalty.of(regularization_params)
        self.dense, self.rows, function, options = chosen(
            optimizer_fn, optimizer_params, self.penalty
        )
        self._schedule = partial(EpochSchedule, function, options, scheduler_fn, scheduler_params)
        self._schedule()  # refused now, not after an epoch
        self.balance = _balance(adaptive_params)
        self._kinds = kinds_of(task_types)
        if isinstance(model, ClassicModel):
            model.check_task_types(self._kinds)
            self._kinds = model.kinds
        self.earlystop_taskid = spec.whole(
            "earlystop_taskid", earlystop_taskid, least=0, most=len(self._kinds) - 1
        )
        self.earlystop_patience = spec.whole("earlystop_patience", earlystop_patience)
        mode = "max" if self._kinds[earlystop_taskid].is_event else "min"
        if earlystop_mode not in (None, mode):
            logger.warning(
                "earlystop_mode %r is ignored: label column %d has its best score at its %s",
                *(earlystop_mode, earlystop_taskid, mode),
            )
        self.model.to(self.device)
        self.history = pl.DataFrame()
        self.scorecard: Scorecard | None = None
        self.unseen: dict[str, dict[str, int]] = {}
        self._run_of: tuple[Training, int] | None = None
        self._fitted_scorecard: Scorecard | None = None

    def fit(
        self,
        train_dataloader: Iterable[Any],
        val_dataloader: Iterable[Any] | None,
        mode: str = "base",
        seed: int = 0,
    ) -> list[list[float | None]]:
        """Train, keep the best epoch, and save its weights as `model_{mode}_{seed}.pth`.

        Returns each epoch's training losses by term and scores by label column. Without validation
        rows the last epoch is kept. `seed` is of shuffling and dropout; torch's generator is left
        as it was.
        """
        path = self._path(mode, seed)
        rows = rows_of(train_dataloader)
        valid_rows = None if val_dataloader is None else rows_of(val_dataloader)
        learner = self._learner(self.model)
        train = self._encoded(learner, rows, "train")
        valid = None if valid_rows is None else self._encoded(learner, valid_rows, "valid")
        source = getattr(train_dataloader, "dataset", train_dataloader)
        name = type(self.model).__name__
        warn_of_leaks(name, source, rows, learner.feature_names, self._kinds)
        supervision = Supervision.of(train)
        schedule = self._schedule()
        training = Training(
            epochs=self.n_epoch, batch_size=batch_size_of(train_dataloader, rows), lr=schedule.lr,
            dense=self.dense, embeddings=replace(self.rows, lr=schedule.lr), balance=self.balance,
            stop=None, schedule=schedule, threads=torch.get_num_threads(), device=str(self.device),
            unseen_rate=0.0, checkpoint=None, compile=False, tables="replicated",
        )  # fmt: skip
        self._run_of = training, int(seed)
        judge = _Judge(learner, valid_rows, self._kinds, self.earlystop_taskid)
        with isolated(int(seed), training):
            learner.prepare(supervision.fitted, base_rates(train))
            loop = Trainer(
                learner.ranker, training, supervision,
                train=train, valid=valid, seed=int(seed), monitor=judge,
            )  # fmt: skip
            self.penalty.attach(learner.ranker, loop)
            log = self._run(loop, schedule, judge)
            loop.keep_best()
        self.history = pl.DataFrame(list(loop.position.history), infer_schema_length=None)
        self.model.eval()
        card = None if valid_rows is None else _scorecard(learner, valid_rows, "valid")
        self.scorecard = self._fitted_scorecard = card
        torch.save(self.model.state_dict(), path)
        return log

    def _path(self, mode: str, seed: int) -> Path:
        """Return where the weights go; refused now, not after all epochs."""
        path = self.model_path / f"model_{mode}_{seed}.pth"
        try:
            self.model_path.mkdir(parents=True, exist_ok=True)
            if path.parent != self.model_path or not os.access(self.model_path, os.W_OK):
                raise OSError("no file can be created there")
        except OSError as error:
            raise ConfigError(f"the weights cannot be written to {path}: {error}") from None
        return path

    def evaluate(self, model: nn.Module, data_loader: Iterable[Any]) -> list[float | None]:
        """Return a score for each label column on all rows: AUC, or the mean squared error.

        None, with a warning, if it cannot be computed. `scorecard` then holds these rows' scores.
        """
        rows = rows_of(data_loader)
        learner = self._learner(model)
        predicted, labels = learner.predictions(rows), rows.labels
        if predicted.shape[1] != labels.shape[1]:
            raise ConfigError(
                f"the model has {predicted.shape[1]} columns, but the labels have {labels.shape[1]}"
            )
        self.scorecard = _scorecard(learner, rows, "test", predicted)
        scores: list[float | None] = []
        for index, kind in enumerate(self._kinds):
            score, reason = column_score(kind, labels[:, index], predicted[:, index])
            if reason:
                message = f"label column {index} has no score: {reason}"
                warnings.warn(message, UserWarning, stacklevel=2)
            scores.append(score)
        return scores

    def predict(self, model: nn.Module, data_loader: Iterable[Any]) -> list[list[float]]:
        """Return the predictions for each row, in the loader's order; labels are not needed."""
        return self._learner(model).predictions(rows_of(data_loader)).tolist()

    @property
    def bundle(self) -> Bundle:
        """The native bundle: predicts from raw rows, saves without pickle."""
        if self._run_of is None:
            raise ConfigError("there is no bundle yet: call fit first")
        return self._learner(self.model).bundle(*self._run_of, self.history, self._fitted_scorecard)

    def export_onnx(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a bundle is exported."""
        raise ConfigError(
            "export_onnx is not supported: save trainer.bundle, and export that folder by "
            "`polyrank export`"
        )

    def _learner(self, model: nn.Module) -> Any:
        return model if isinstance(model, ClassicModel) else CustomModel(model, self._kinds)

    def _encoded(self, learner: Any, rows: Rows, split: str) -> Any:
        table = learner.encode(rows, split)
        log_counts(table.unseen, table.nulls, len(table), split)
        self.unseen[split] = dict(table.unseen)
        return table

    def _run(self, loop: Trainer, schedule: EpochSchedule, judge: _Judge) -> list[Any]:
        log: list[list[float | None]] = []
        for each in loop.run():
            if each.event != "epoch":
                continue
            log.append([*each.losses.values(), *judge.scores])
            shown = ", ".join("–" if s is None else f"{s:.4f}" for s in judge.scores) or "none"
            logger.info("epoch %d of %d: validation scores %s", each.epoch, each.epochs, shown)
            if each.epoch < each.epochs:  # some schedulers end with the last epoch
                loss = each.valid.get("total loss")
                schedule.step(loss, None if judge.value is None else -judge.value)
                schedule.follow(loop)
            if loop.valid is not None and loop.position.stale_epochs >= self.earlystop_patience:
                break
        return log


class _Judge:
    """Rates an epoch by the score of one label column, else by the validation loss."""

    def __init__(
        self, learner: Any, rows: Rows | None, kinds: Sequence[LabelKind], column: int
    ) -> None:
        self.learner, self.kinds, self.column = learner, kinds, column
        self.labels = None if rows is None else rows.labels
        self.scores: list[float | None] = []
        self.value: float | None = None
        if self.labels is None:
            logger.warning("no validation rows: the last epoch is kept")
            return
        label = self.labels[:, column]
        _, reason = column_score(kinds[column], label, np.zeros(len(label)))
        if reason:
            warnings.warn(
                f"label column {column} has no score on the validation rows ({reason}): the "
                "validation loss decides which epoch is better",
                UserWarning,
                stacklevel=3,
            )

    def __call__(self, logits: Mapping[str, Tensor], valid: Mapping[str, float]) -> float:
        assert self.labels is not None
        predicted = predictions_of(self.learner, logits).numpy()
        columns = zip(self.kinds, self.labels.T, predicted.T, strict=True)
        self.scores = [column_score(*each)[0] for each in columns]
        score = self.scores[self.column]
        if score is None or not isfinite(score):
            self.value = valid["total loss"]
        else:
            self.value = -score if self.kinds[self.column].is_event else score
        return self.value


def column_score(
    kind: LabelKind, label: np.ndarray, prediction: np.ndarray
) -> tuple[float | None, str | None]:
    """Return the AUC of an event, else the mean squared error; or None and the reason why.

    Rows whose label is NaN are left out.

    Examples:
        >>> from polyrank.labels import Binary, Regression
        >>> column_score(Binary(), np.array([0.0, 1.0]), np.array([0.2, 0.1]))
        (0.0, None)
        >>> column_score(Regression(), np.array([1.0, 3.0]), np.array([1.0, 1.0]))
        (2.0, None)
    """
    seen = ~np.isnan(label)
    if not seen.any():
        return None, "no label is observed"
    if not kind.is_event:
        return float(np.mean((prediction[seen] - label[seen]) ** 2)), None
    try:
        return auc(label[seen], prediction[seen]), None
    except Undefined as reason:
        return None, str(reason)


def warn_of_leaks(
    model: str, source: Any, rows: Rows, names: Iterable[str], kinds: Sequence[LabelKind]
) -> None:
    """Warn of features that equal a label, or a joint label of two, once for each data set."""
    try:
        if source in _warned:
            return
    except TypeError:  # a list of batches cannot be remembered: it is warned of again
        source = None
    found = list(leaks(rows, names, kinds))
    if found:
        if source is not None:
            _warned.add(source)
        equal = "; ".join(f"feature {name!r} equals {label}" for name, label in found)
        remove = ", ".join(repr(name) for name in dict.fromkeys(name for name, _ in found))
        warnings.warn(
            f"{model}: {equal} on all {len(rows):,} training rows. The model reads the answer, so "
            f"its scores mean nothing; remove {remove} from the features",
            LeakageWarning,
            stacklevel=3,
        )


def leaks(
    rows: Rows, names: Iterable[str], kinds: Sequence[LabelKind]
) -> Iterator[tuple[str, str]]:
    """Yield each feature that equals a label, with the first such label in words."""
    labels = rows.labels
    columns = {f"label column {index}": labels[:, index] for index in range(labels.shape[1])}
    events = [index for index, kind in enumerate(kinds) if kind.is_event]
    columns |= {
        f"the joint label of columns {i} and {j}": labels[:, i] * labels[:, j]
        for i, j in combinations(events, 2)
    }
    hidden = [HiddenLabel(words, "", label, event=False) for words, label in columns.items()]
    for name in names:
        column = np.asarray(rows.x[name])
        if column.dtype.kind in "biuf" and column.ndim == 1:
            feature = pl.Series(name, column)
            found = next((each for each in hidden if find_leak(feature, each)), None)
            if found is not None:
                yield name, found.words


def _scorecard(
    learner: Any, rows: Rows, split: str, predicted: np.ndarray | None = None
) -> Scorecard:
    predicted = learner.predictions(rows) if predicted is None else predicted
    columns = dict(zip(learner.columns, predicted.T, strict=True))
    table = learner.encode(rows, split)
    return scorecard(learner.schema, columns, table.labels_by_task, split=split)


def _balance(params: Mapping[str, Any] | None) -> Balance:
    if params is None:
        return Sum(normalize=False)  # the mean of the losses, as upstream
    method = params.get("method")
    if method not in METHODS:
        raise ConfigError(
            f"adaptive_params: unknown method {method!r}{did_you_mean(str(method), METHODS)}"
        )
    rest = {key: value for key, value in params.items() if key != "method"}
    return spec.choose(BALANCES, {"kind": METHODS[method], **rest}, "adaptive_params")


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used here: {reason}") from None
