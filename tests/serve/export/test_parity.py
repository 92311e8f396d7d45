"""The bar of an export, and what is allowed where float32 cannot tell it."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import polyrank as pr
from polyrank.calibration import Isotonic
from polyrank.calibration.fitting import Calibrator
from polyrank.errors import ExportError
from polyrank.serve.export.parity import Exact, Parity
from polyrank.serve.export.write import export
from polyrank.serve.inputs import ROWS_FILE


def parity(found, expected, exact, bar=1e-6):
    each = Parity({"p": bar})
    rounding = np.abs(np.subtract(expected, exact))
    each.compare({"p": np.array(found)}, {"p": np.array(expected)}, {"p": rounding})
    return each


def test_the_bar_holds_where_rounding_is_small():
    parity([0.5, 0.3 + 9e-7], [0.5, 0.3], [0.5, 0.3 - 1e-7]).check("file")
    with pytest.raises(ExportError, match=r"file differs from the bundle: 'p' "
                       r"by up to 1.1e-06 on 2 rows, and at most 1e-06 is allowed"):  # fmt: skip
        parity([0.5, 0.3 + 1.1e-6], [0.5, 0.3], [0.5, 0.3 - 1e-7]).check("file")


def test_where_rounding_is_large_three_times_as_much_is_allowed():
    expected, exact = [0.5, 0.3], [0.5, 0.3 + 2e-6]
    found = parity([0.5 + 5e-6, 0.3], expected, exact)
    assert found.rounding["p"] == pytest.approx(2e-6)
    assert found.allowed["p"] == pytest.approx(6e-6)
    found.check("file")
    with pytest.raises(ExportError, match=r"at most 6e-06 is allowed"):
        parity([0.5 + 7e-6, 0.3], expected, exact).check("file")


def test_the_largest_of_all_rows_counts():
    found = parity([0.5 + 5e-6], [0.5], [0.5])
    found.compare({"p": np.array([0.1])}, {"p": np.array([0.1])}, {"p": np.zeros(1)})
    assert found.rows == 2
    with pytest.raises(ExportError, match=r"by up to 5e-06 on 2 rows"):
        found.check("file")


def test_of_a_nan_the_difference_is_without_bound():
    with pytest.raises(ExportError, match=r"'p' by up to inf on 2 rows"):
        parity([0.5, np.nan], [0.5, 0.5], [0.5, 0.5]).check("file")


def test_what_one_row_is_allowed_all_are_not():
    """A number far from training, and the bundle itself is off by 0.02 there."""
    expected, exact = np.full(1000, 0.5), np.full(1000, 0.5)
    exact[3] += 0.02
    found = expected.copy()
    found[3] += 0.03
    parity(found, expected, exact).check("file")
    with pytest.raises(ExportError, match=r"'p' by 0.01 in the mean of 1,000 rows, and "
                       r"at most 6e-05 is allowed: nothing was exported"):  # fmt: skip
        parity(expected + 0.01, expected, exact).check("file")


def test_no_rows_are_refused():
    with pytest.raises(ExportError, match="file: there were no rows to compare"):
        Parity({"p": 1e-6}).check("file")


def test_the_exact_network_is_the_bundles_without_its_rounding(bundle, rows):
    table = bundle.encode(rows)
    logits, exact = bundle.logits(table), Exact(bundle)
    for task, z in exact.logits(table).items():
        assert 0 < np.abs(z - logits[task]).max() < 1e-5 * max(1, np.abs(z).max())
    rounding = exact.rounding(table, logits)
    assert list(rounding) == list(bundle.columns(table, logits))
    for name, each in rounding.items():
        assert each.shape == (len(table),)
        assert 0 < each.max() < (1e-6 if name.startswith("p_") else 1e-3), name
    assert next(bundle.ranker.head.parameters()).dtype.itemsize == 4  # it is a copy


def test_it_sees_what_a_steep_map_makes_of_rounding(bundle, rows):
    """Also of the rows that this computation happens not to take over the step."""
    table = bundle.encode(rows)
    logits = bundle.logits(table)
    z = np.sort(logits["click"])
    between = float(z[200] + z[201]) / 2  # no row is there
    step = Isotonic((z[0], between - 1e-9, between + 1e-9, z[-1]), (-3.0, -2.0, 2.0, 3.0))
    near = Isotonic((z[0], z[200] - 1e-9, z[200] + 1e-9, z[-1]), (-3.0, -2.0, 2.0, 3.0))
    reach = {}
    for what, found in {"between": step, "near": near}.items():
        mapped = replace(bundle, calibrators={"click": Calibrator(found, 0, 0, {})})
        reach[what] = Exact(mapped).rounding(table, logits)["p_click"].max()
    assert reach["near"] > 0.3  # a row may end on either side
    assert reach["between"] < 0.1


class Scaled(nn.Module):
    """A trunk with a constant that is no buffer, and so is float32 whatever it meets."""

    def __init__(self, width, tasks):
        super().__init__()
        self.linear, self.tasks = nn.Linear(width, 3), tasks
        self.scale = torch.full((3, 3), 0.5)

    def forward(self, x):
        return dict.fromkeys(self.tasks, self.linear(x) @ self.scale)


class Overflows(Scaled):
    """A trunk that is finite in float32 alone."""

    def forward(self, x):
        hidden = self.linear(x)
        return dict.fromkeys(self.tasks, hidden / (hidden.dtype == torch.float32))


class Derived(Scaled):
    """A trunk that cannot be copied."""

    def __init__(self, width, tasks):
        super().__init__(width, tasks)
        self.scale = self.scale.requires_grad_() * 2


@dataclass(frozen=True)
class Own:
    module: type[nn.Module]

    def build(self, layout, tasks):
        return self.module(layout.width, [task.name for task in tasks])


@pytest.mark.slow
@pytest.mark.parametrize("module", [Scaled, Overflows, Derived])
def test_a_trunk_that_does_not_compute_in_float64_is_held_to_the_bar(module, tmp_path, caplog):
    rows = pl.DataFrame({"item": [1, 2] * 50, "click": [0, 0, 1, 1] * 25})
    schema = pr.Schema([pr.SparseFeature("item")], [pr.Task("click")])
    model = pr.Model(trunk=Own(module), tower=[4], interaction=False)
    # In one step: the graph of what cannot be copied is gone after it.
    bundle = pr.fit(schema, model, train=rows, epochs=1, batch_size=100)
    bundle.save(tmp_path / "bundle")
    caplog.clear()
    found = export(bundle, tmp_path / "bundle", [rows, rows])[ROWS_FILE]
    assert found.rounding == {}
    assert found.allowed == {"p_click": 1e-6}
    (said,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said.startswith(f"trunk {module.__name__} does not compute in float64 (")


def test_a_log_of_numbers_that_lie_close_together_is_exported(tmp_path):
    """Seconds since 1970: a unit in the last place of the logarithm is a tenth of a deviation."""
    seconds = np.linspace(1.7e9, 1.7e9 + 3e5, 200)
    rows = pl.DataFrame({"at": seconds, "click": [0, 1] * 100})
    schema = pr.Schema([pr.DenseFeature("at", encoding="log")], [pr.Task("click")])
    bundle = pr.fit(schema, pr.Model(tower=[4]), train=rows, epochs=1)
    bundle.save(tmp_path / "bundle")
    found = export(bundle, tmp_path / "bundle", [rows])[ROWS_FILE]
    assert found.differences["p_click"] <= 1e-6
