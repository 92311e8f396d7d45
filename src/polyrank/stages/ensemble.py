"""Trees as arrays, read from LightGBM's text and evaluated without LightGBM.

The sums are LightGBM's, bit for bit, on float32 inputs. Thresholds are float32, rounded down: a
float32 is at most a number if and only if it is at most the next float32 below, so no row changes
side, here or in an exported graph.

Letters: N rows, C columns, T trees, M nodes, L leaves, S words of sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from polyrank.errors import BundleError
from polyrank.nn.kernels import compiled

VERSION = "v4"  # of LightGBM's text: what every LightGBM since 4.0 writes
ZERO = np.float32(1e-35)  # LightGBM reads a number of at most this size as 0
_BLOCK_ROWS = 256  # of one tree after the other, whose nodes then stay in the cache
_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of a decision type; the next two are the missing type
_MISSING = {0: "none", 1: "zero", 2: "nan"}
_ARRAYS: Mapping[str, Any] = {
    "split_feature": np.int32, "split_gain": np.float64, "threshold": np.float64,
    "decision_type": np.int32, "left_child": np.int32, "right_child": np.int32,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The trees of one booster, one after the other.

    A node sends a row left if its number is at most the threshold, or its category is in the set.
    A child of at least 0 is a node, and any other, ~child, a leaf.

    Args:
        text: LightGBM's, from which all else was read.
        roots: a child each, so that a tree without a node is a leaf.
        columns: of the matrix, that a node looks at.
        thresholds: of nodes that look at a number.
        missing_left: where NaN goes.
        left: child.
        right: child.
        gains: of the training loss, by each split.
        first: of the words of a node's set; −1 for a number.
        words: how many they are.
        sets: 32 categories a word.
        leaves: what a tree adds for a row.

    Shape:
        roots: int32 (T,) · columns, left, right, first, words: int32 (M,) ·
        thresholds: float32 (M,) · missing_left: bool (M,) · gains: float64 (M,) ·
        sets: uint32 (S,) · leaves: float64 (L,)
    """

    text: str
    roots: np.ndarray
    columns: np.ndarray
    thresholds: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    gains: np.ndarray
    first: np.ndarray
    words: np.ndarray
    sets: np.ndarray
    leaves: np.ndarray

    @classmethod
    def read(cls, text: str, where: str = "trees") -> Ensemble:
        """Read LightGBM's text; `where` begins the message.

        Raises:
            BundleError: another text, or trees of a kind that polyrank never fits.
        """
        head, *trees = text.split("\nTree=")
        if not head.startswith("tree\n") or f"\nversion={VERSION}\n" not in head + "\n":
            raise BundleError(f"{where}: no LightGBM model of version {VERSION}")
        if len(trees) == 0 or "\nend of trees" not in trees[-1]:
            raise BundleError(f"{where}: the LightGBM model is cut off")
        try:
            return _joined(text, [_tree(each) for each in trees])
        except (KeyError, ValueError, IndexError) as error:
            raise BundleError(f"{where}: the LightGBM model cannot be read: {error!r}") from error

    @classmethod
    def constant(cls, value: float, columns: int) -> Ensemble:
        """Return one tree of one leaf, which LightGBM reads too."""
        names = " ".join(f"Column_{at}" for at in range(columns))
        infos = " ".join(["none"] * columns)
        tree = (
            "Tree=0\nnum_leaves=1\nnum_cat=0\nsplit_feature=\nsplit_gain=\nthreshold=\n"
            "decision_type=\nleft_child=\nright_child=\n"
            f"leaf_value={value!r}\nleaf_weight=\nleaf_count=0\ninternal_value=\n"
            "internal_weight=\ninternal_count=\nis_linear=0\nshrinkage=1\n\n\n"
        )
        return cls.read(
            f"tree\nversion={VERSION}\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\n"
            f"max_feature_idx={columns - 1}\nobjective=regression\nfeature_names={names}\n"
            f"feature_infos={infos}\ntree_sizes={len(tree)}\n\n{tree}end of trees\n"
        )

    @property
    def trees(self) -> int:
        """How many trees there are."""
        return len(self.roots)

    @cached_property
    def bias(self) -> float:
        """The sum of the trees that are one leaf."""
        return float(sum(self.leaves[~root] for root in self.roots if root < 0))

    def margins(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sum of all trees for each row: float32 (N, C) → float64 (N,)."""
        if matrix.dtype != np.float32:
            raise TypeError(f"trees read float32, got {matrix.dtype}")
        out = np.zeros(len(matrix))
        _add(
            matrix, self.roots, self.columns, self.thresholds, self.missing_left, self.left,
            self.right, self.first, self.words, self.sets, self.leaves, out,
        )  # fmt: skip
        return out

    def members(self, node: int) -> np.ndarray:
        """Return the categories that a node sends left."""
        start = self.first[node]
        words = self.sets[start : start + self.words[node]]
        return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))

    def gain(self) -> dict[int, float]:
        """Return the sum of the gains of each column that is split."""
        total = np.bincount(self.columns, self.gains) if len(self.columns) else np.empty(0)
        return {int(at): float(total[at]) for at in np.unique(self.columns)}


def rounded_down(thresholds: np.ndarray) -> np.ndarray:
    """Return the float32 that parts float32 inputs as LightGBM's threshold does.

    Within ±1e-35 an input is read as 0, so a threshold there parts all of these from one side.

    Examples:
        >>> rounded_down(np.array([0.1, 1e300, -1e-35])).tolist()
        [0.09999999403953552, 3.4028234663852886e+38, -1.0000000897489909e-35]
    """
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and then the last
        found = thresholds.astype(np.float32)
    above = found.astype(np.float64) > thresholds
    found[above] = np.nextafter(found[above], np.float32(-np.inf))
    found[(thresholds >= 0) & (thresholds < ZERO)] = ZERO
    below = (thresholds < 0) & (thresholds >= -ZERO)
    found[below] = np.nextafter(-ZERO, np.float32(-np.inf))
    return found


def _tree(text: str) -> dict[str, np.ndarray]:
    lines = (line.partition("=") for line in text.splitlines())
    fields = {name: value.split() for name, equals, value in lines if equals}
    nodes = int(fields["num_leaves"][0]) - 1
    if fields.get("is_linear", ["0"]) != ["0"]:
        raise ValueError("its leaves are linear models")
    found = {name: np.array(fields[name][:nodes], dtype) for name, dtype in _ARRAYS.items()}
    found["leaf_value"] = np.array(fields["leaf_value"], np.float64)
    sizes = {name: len(each) for name, each in found.items()}
    if set(sizes.values()) - {nodes, nodes + 1} or sizes["leaf_value"] != nodes + 1:
        raise ValueError(f"a tree of {nodes + 1} leaves has other sizes: {sizes}")
    found["cat_boundaries"] = np.array(fields.get("cat_boundaries", [0]), np.int32)
    found["cat_threshold"] = np.array(fields.get("cat_threshold", []), np.uint32)
    return found


def _joined(text: str, trees: list[dict[str, np.ndarray]]) -> Ensemble:
    """Return trees one after the other, their children, leaves and sets numbered through."""
    nodes = leaves = words = 0
    parts: dict[str, list[np.ndarray]] = {}
    for tree in trees:
        decision, threshold = tree["decision_type"], tree["threshold"]
        categorical = (decision & _CATEGORICAL) > 0
        missing = decision >> 2 & 3
        if (missing[~categorical] == 1).any():
            raise ValueError("it reads 0 as missing")
        default_left = (decision & _DEFAULT_LEFT) > 0
        # Where training had no missing number, LightGBM reads NaN as 0.
        goes_left = np.where(missing == 2, default_left, threshold >= 0)
        first, count = np.full(len(decision), -1, np.int32), np.zeros(len(decision), np.int32)
        at = threshold[categorical].astype(np.int32)
        bounds = tree["cat_boundaries"]
        first[categorical] = bounds[at] + words
        count[categorical] = bounds[at + 1] - bounds[at] if len(at) else 0
        numeric = rounded_down(threshold)
        numeric[categorical] = 0
        for name, values in {
            "roots": np.array([nodes if len(decision) else ~leaves], np.int32),
            "columns": tree["split_feature"],
            "thresholds": numeric,
            "missing_left": goes_left & ~categorical,
            "left": _children(tree["left_child"], nodes, leaves),
            "right": _children(tree["right_child"], nodes, leaves),
            "gains": tree["split_gain"],
            "first": first,
            "words": count,
            "sets": tree["cat_threshold"],
            "leaves": tree["leaf_value"],
        }.items():
            parts.setdefault(name, []).append(values)
        nodes += len(decision)
        leaves += len(tree["leaf_value"])
        words += len(tree["cat_threshold"])
    return Ensemble(text, **{name: np.concatenate(each) for name, each in parts.items()})


def _children(own: np.ndarray, nodes: int, leaves: int) -> np.ndarray:
    return np.where(own >= 0, own + nodes, own - leaves).astype(np.int32)


@compiled()
def _add(
    matrix, roots, columns, thresholds, missing_left, left, right, first, words, sets, leaves, out
):
    """Add each tree in turn, as LightGBM does, so that the sums are the same to the last bit."""
    rows = matrix.shape[0]
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        for root in roots:
            for row in range(start, stop):
                node = root
                while node >= 0:
                    value = matrix[row, columns[node]]
                    if first[node] >= 0:
                        goes_left = False
                        if value >= 0:  # neither NaN nor negative
                            code = np.int64(value)
                            word = code >> 5
                            if word < words[node]:
                                goes_left = (sets[first[node] + word] >> (code & 31)) & 1 == 1
                    elif np.isnan(value):
                        goes_left = missing_left[node]
                    else:
                        goes_left = value <= thresholds[node]
                    node = left[node] if goes_left else right[node]
                out[row] += leaves[~node]
