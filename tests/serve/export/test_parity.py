"""The bar of an export, and what is allowed where float32 cannot tell it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from polyrank.calibration.fitting import Calibrator
from polyrank.calibration.maps import Platt
from polyrank.errors import ExportError
from polyrank.serve.export.parity import Exact, Parity


def parity(found, expected, exact, bar=1e-6):
    each = Parity({"p": bar})
    frames = (pl.DataFrame({"p": values}) for values in (expected, exact))
    each.compare({"p": np.array(found)}, *frames)
    return each


def test_the_bar_holds_where_rounding_is_small():
    parity([0.5, 0.3 + 9e-7], [0.5, 0.3], [0.5, 0.3 - 1e-7]).check("file")
    with pytest.raises(ExportError, match=r"file does not answer as the bundle does: 'p' differs "
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
    found.compare({"p": np.array([0.1])}, pl.DataFrame({"p": [0.1]}), pl.DataFrame({"p": [0.1]}))
    assert found.rows == 2
    with pytest.raises(ExportError, match=r"by up to 5e-06 on 2 rows"):
        found.check("file")


def test_of_a_nan_the_difference_is_without_bound():
    with pytest.raises(ExportError, match=r"'p' differs by up to inf on 2 rows"):
        parity([0.5, np.nan], [0.5, 0.5], [0.5, 0.5]).check("file")


def test_no_rows_are_refused():
    with pytest.raises(ExportError, match="file: there were no rows to compare"):
        Parity({"p": 1e-6}).check("file")


def test_the_exact_network_is_the_bundles_without_its_rounding(bundle, rows):
    table = bundle.encode(rows)
    exact, ours = Exact(bundle).score(table), bundle.score(table)
    assert exact.columns == ours.columns
    for name in ours.columns:
        off = np.abs(exact[name].to_numpy() - ours[name].to_numpy()).max()
        assert 0 < off < (1e-6 if name.startswith("p_") else 1e-3), name
    assert next(bundle.ranker.head.parameters()).dtype.itemsize == 4  # it is a copy


def test_it_sees_what_a_steep_map_makes_of_rounding(bundle, rows):
    """A slope of 1,000 makes 1,000 times as much of it, in both computations."""
    z = np.median(bundle.logits(bundle.encode(rows))["click"])
    steep = Calibrator(Platt(1000.0, -1000.0 * float(z)), 0, 0, {})
    mapped = replace(bundle, calibrators={"click": steep})
    table = bundle.encode(rows)
    before, after = (
        np.abs((Exact(each).score(table) - each.score(table))["p_click"]).max()
        for each in (replace(bundle, calibrators={}), mapped)
    )
    assert after > 30 * before
