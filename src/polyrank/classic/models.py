"""The models by their classic names and arguments.

Letters: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyrank.classic.model import ClassicModel
from polyrank.errors import ConfigError, DataError, did_you_mean
from polyrank.models import model as native
from polyrank.schema import Task
from polyrank.terms import output_columns

KINDS: dict[str, str] = {"classification": "binary", "regression": "regression"}


class ESMM(ClassicModel):
    """Entire-space multi-task model: clicks and purchases, both learnt on all impressions.

    Dense features are used as well, wherever they are listed.

    Args:
        user_features: of the user.
        item_features: of the item.
        cvr_params: {"dims": [...], "dropout": p} of the tower of P(purchase | click).
        ctr_params: likewise, of P(click).

    Shape:
        - output: (B, 3): P(purchase | click), P(click), P(click and purchase)

    Example:
        >>> import torch
        >>> from polyrank.classic import SparseFeature
        >>> user, item = SparseFeature("user", 9), SparseFeature("item", 5)
        >>> model = ESMM([user], [item], cvr_params={"dims": [8]}, ctr_params={"dims": [8]})
        >>> model({"user": torch.tensor([1, 2]), "item": torch.tensor([0, 4])}).shape
        torch.Size([2, 3])

    Reference:
        Ma et al., SIGIR 2018, eq. 1-4.
    """

    def __init__(
        self,
        user_features: Sequence[Any],
        item_features: Sequence[Any],
        cvr_params: Mapping[str, Any],
        ctr_params: Mapping[str, Any],
    ) -> None:
        params = {"ctr": ctr_params, "cvr": cvr_params}
        towers, dropout = _towers(params)
        super().__init__(
            [*user_features, *item_features],
            [Task("ctr"), Task("cvr", given="ctr")],
            native.Model(
                trunk=native.Separate(),
                tower=towers,
                norm="batch",
                dropout=dropout,
                entire_space=True,
            ),
            ["p_cvr_given_ctr", "p_ctr", "p_cvr"],
        )

    def check_task_types(self, kinds: Sequence[str]) -> str | None:
        """Refuse a regression; note where the third task is left out."""
        if set(kinds) != {"binary"} or len(kinds) not in (2, 3):
            raise ConfigError(
                'ESMM has three classification tasks: task_types=["classification"] * 3, however: '
                f"{list(kinds)}"
            )
        if len(kinds) == 3:
            return None
        return (
            "two task types are given for the three label columns [cvr, ctr, ctcvr] of ESMM: CTR "
            "and CTCVR are trained all the same, and evaluate returns three scores"
        )

    def labels(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return click and purchase from the columns [cvr, ctr, ctcvr].

        Raises:
            DataError: another number of columns, or a third that is not the product of the others.
        """
        self._check_width(y)
        cvr, ctr, both = y.T
        wrong = (both != cvr * ctr) & ~np.isnan(y).any(axis=1)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                "the label columns of ESMM are [cvr, ctr, ctcvr] and the third is the product of "
                f"the others, however: {int(wrong.sum()):,} rows differ, the first of them row "
                f"{row}: {y[row].tolist()}"
            )
        # Real logs have some purchases without their click; more of them than clicks are swapped.
        if ctr.any() and (ctr <= cvr).all() and (ctr < cvr).sum() > ctr.sum():
            raise DataError(
                "the label columns of ESMM are [cvr, ctr, ctcvr], and here every row of the second "
                "is also one of the first: the first two look swapped"
            )
        return {"ctr": ctr, "cvr": cvr}


class MMOE(ClassicModel):
    """Multi-gate mixture of experts.

    Args:
        features: sparse, sequence and dense.
        task_types: "classification" or "regression", one a label column.
        n_expert: number of experts.
        expert_params: {"dims": [...], "dropout": p} of each expert.
        tower_params_list: likewise, of each task's tower.

    Reference:
        Ma et al., KDD 2018, eq. 6-7.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        n_expert: int,
        expert_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        hidden, dropout = _layers(expert_params, "expert_params")
        trunk = native.MMoE(experts=n_expert, hidden=hidden, dropout=dropout)
        super().__init__(*_tasks(features, task_types, trunk, tower_params_list))


class SharedBottom(ClassicModel):
    """One bottom for all tasks, then a tower each.

    Args:
        features: sparse, sequence and dense.
        task_types: "classification" or "regression", one a label column.
        bottom_params: {"dims": [...], "dropout": p} of the bottom.
        tower_params_list: likewise, of each task's tower.

    Reference:
        Caruana, Machine Learning 1997.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        bottom_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        hidden, dropout = _layers(bottom_params, "bottom_params")
        trunk = native.SharedBottom(hidden=hidden, dropout=dropout)
        super().__init__(*_tasks(features, task_types, trunk, tower_params_list))


class PLE(ClassicModel):
    """Progressive layered extraction.

    Args:
        features: sparse, sequence and dense.
        task_types: "classification" or "regression", one a label column.
        n_level: number of extraction layers.
        n_expert_specific: experts of each task in a layer.
        n_expert_shared: experts of all tasks in a layer.
        expert_params: {"dims": [...], "dropout": p} of each expert.
        tower_params_list: likewise, of each task's tower.

    Reference:
        Tang et al., RecSys 2020, eq. 4-8.
    """

    def __init__(
        self,
        features: Sequence[Any],
        task_types: Sequence[str],
        n_level: int,
        n_expert_specific: int,
        n_expert_shared: int,
        expert_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        hidden, dropout = _layers(expert_params, "expert_params")
        trunk = native.PLE(
            levels=n_level,
            shared_experts=n_expert_shared,
            task_experts=n_expert_specific,
            hidden=hidden,
            dropout=dropout,
        )
        super().__init__(*_tasks(features, task_types, trunk, tower_params_list))


class AITM(ClassicModel):
    """Adaptive information transfer along a chain of binary tasks.

    Args:
        features: sparse, sequence and dense.
        n_task: number of tasks; each follows the one before it.
        bottom_params: {"dims": [...], "dropout": p} of each task's bottom.
        tower_params_list: likewise, of each task's tower.

    Reference:
        Xi et al., KDD 2021, eq. 4-9.
    """

    def __init__(
        self,
        features: Sequence[Any],
        n_task: int,
        bottom_params: Mapping[str, Any],
        tower_params_list: Sequence[Mapping[str, Any]],
    ) -> None:
        hidden, dropout = _layers(bottom_params, "bottom_params")
        names = tuple(f"task_{index}" for index in range(n_task))
        trunk = native.AITM(hidden=hidden, chain=names, dropout=dropout)
        task_types = ["classification"] * n_task
        super().__init__(*_tasks(features, task_types, trunk, tower_params_list))


def kinds_of(task_types: Sequence[str]) -> tuple[str, ...]:
    """Return the native kinds of task types.

    Raises:
        ConfigError: an unknown one, with the nearest.
    """
    if not task_types:
        raise ConfigError("task_types names no task")
    for each in task_types:
        if each not in KINDS:
            raise ConfigError(f"unknown task type {each!r}{did_you_mean(str(each), KINDS)}")
    return tuple(KINDS[each] for each in task_types)


def tasks_of(kinds: Sequence[str]) -> list[Task]:
    """Return independent tasks `task_0`, `task_1` …, whose loss is the mean of their losses."""
    weight = 1 / len(kinds)
    return [Task(f"task_{i}", kind=kind, weight=weight) for i, kind in enumerate(kinds)]


def _tasks(
    features: Sequence[Any],
    task_types: Sequence[str],
    trunk: Any,
    tower_params_list: Sequence[Mapping[str, Any]],
) -> tuple[Sequence[Any], list[Task], native.Model, list[str]]:
    tasks = tasks_of(kinds_of(task_types))
    if len(tower_params_list) != len(tasks):
        raise ConfigError(
            f"tower_params_list has {len(tower_params_list)} towers for {len(tasks)} tasks: "
            "give one a task"
        )
    named = {task.name: each for task, each in zip(tasks, tower_params_list, strict=True)}
    towers, dropout = _towers(named)
    model = native.Model(trunk=trunk, tower=towers, norm="batch", dropout=dropout)
    return features, tasks, model, [output_columns(task)[0] for task in tasks]


def _towers(params: Mapping[str, Mapping[str, Any]]) -> tuple[Any, float]:
    """Return the columns of each tower (one list where all are alike), and their dropout."""
    read = {name: _layers(each, f"tower of {name!r}") for name, each in params.items()}
    dropouts = {dropout for _, dropout in read.values()}
    if len(dropouts) > 1:
        raise ConfigError(
            f"towers with different dropouts ({sorted(dropouts)}): give all the same one"
        )
    towers = {name: dims for name, (dims, _) in read.items()}
    alike = len(set(towers.values())) == 1
    return next(iter(towers.values())) if alike else towers, dropouts.pop()


def _layers(params: Mapping[str, Any], where: str) -> tuple[tuple[int, ...], float]:
    """Return dims and dropout of upstream's parameters of an MLP."""
    known = ["dims", "dropout", "activation", "output_layer"]
    for key in params:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}")
    activation = params.get("activation", "relu")
    if str(activation).lower() != "relu":
        raise ConfigError(
            f"{where}: activation {activation!r} is not offered, layers are ReLU: leave it out, or "
            "give MTLTrainer an nn.Module of your own"
        )
    return tuple(int(size) for size in params.get("dims") or ()), float(params.get("dropout", 0))
