"""What one does with a bundle: predict and evaluate raw rows, here and in a fresh process."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import polyrank as pr
from polyrank.bundle import model
from polyrank.errors import DataError
from polyrank.models import outputs

OUTPUTS = ["p_click", "p_buy_given_click", "p_buy", "spend_given_buy", "spend"]
FEATURES = ["user", "city", "slot", "home", "url", "age", "price"]


def test_save_and_load_give_the_same_bits(bundle, rows, tmp_path):
    bundle.save(tmp_path / "b")
    loaded = pr.load(tmp_path / "b")
    assert loaded.predict(rows).equals(bundle.predict(rows))
    assert loaded.scorecard == bundle.scorecard
    assert loaded.history.equals(bundle.history)
    assert loaded.evaluate(rows, split="valid") == bundle.scorecard


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_bits_from_raw_rows(bundle, rows, tmp_path):
    bundle.save(tmp_path / "b")
    pl.DataFrame({name: rows[name] for name in FEATURES}).write_parquet(tmp_path / "rows.parquet")
    code = (
        "import polyrank as pr, torch; torch.set_num_threads(1); "
        f"pr.load(r'{tmp_path / 'b'}').predict(r'{tmp_path / 'rows.parquet'}')"
        f".write_parquet(r'{tmp_path / 'out.parquet'}')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert pl.read_parquet(tmp_path / "out.parquet").equals(bundle.predict(rows))


def test_outputs_have_their_names_and_order(bundle, rows):
    predicted = bundle.predict({name: rows[name] for name in FEATURES})
    assert predicted.columns == OUTPUTS
    assert predicted.height == 500
    assert (predicted["p_buy"] <= predicted["p_click"]).all()
    expected = predicted["p_buy"] * predicted["spend_given_buy"]
    assert (predicted["spend"] == expected).all()
    assert 290_000 < predicted["spend_given_buy"].mean() < 310_000


def test_chunks_do_not_change_a_row_beyond_rounding(bundle, rows):
    whole = bundle.predict(rows).to_numpy()
    one_by_one = np.concatenate(
        [bundle.predict({k: v[i : i + 1] for k, v in rows.items()}).to_numpy() for i in range(20)]
    )
    np.testing.assert_allclose(one_by_one[:, :3], whole[:20, :3], atol=1e-6)


def test_files_are_predicted_by_pieces_to_the_same_bits(bundle, rows, tmp_path, monkeypatch):
    frame = pl.concat([pl.DataFrame(rows)] * 5).drop(["click", "buy", "spend"])
    frame.write_parquet(tmp_path / "rows.parquet")
    whole = bundle.predict(frame)
    monkeypatch.setattr(outputs, "CHUNK_ROWS", 256)
    monkeypatch.setattr(model, "PIECE_ROWS", 512)
    sizes, plain = [], model.encode

    def encode(part, *arguments, **options):
        sizes.append(part.lazy().select(pl.len()).collect().item())
        return plain(part, *arguments, **options)

    in_batches = bundle.predict(frame)
    monkeypatch.setattr(model, "encode", encode)
    for source in (tmp_path / "rows.parquet", frame.lazy()):
        sizes.clear()
        found = bundle.predict(source)
        assert sizes == [512] * 4 + [452]
        assert found.equals(in_batches)
    np.testing.assert_allclose(found.to_numpy(), whole.to_numpy(), rtol=1e-5)


def test_files_are_scored_by_pieces_to_the_same_scorecard(bundle, rows, tmp_path, monkeypatch):
    frame = pl.concat([pl.DataFrame(rows)] * 5)
    frame = frame.with_columns(true_p_click=pl.Series(np.linspace(0, 1, frame.height)))
    frame.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(outputs, "CHUNK_ROWS", 256)
    monkeypatch.setattr(model, "PIECE_ROWS", 512)
    expected = bundle.evaluate(frame)
    sizes, plain = [], model.Bundle.logits
    monkeypatch.setattr(
        model.Bundle, "logits", lambda self, t: sizes.append(len(t)) or plain(self, t)
    )
    for source in (tmp_path / "rows.parquet", frame.lazy()):
        sizes.clear()
        assert bundle.evaluate(source).to_json() == expected.to_json()
        assert sizes == [512] * 4 + [452]
    table, _ = bundle.evaluated(tmp_path / "rows.parquet", "test")
    whole = bundle.encode(frame, split="test")
    assert (table.unseen, table.nulls) == (whole.unseen, whole.nulls)
    assert table.dense.size == table.ids.size == 0


@pytest.mark.parametrize("orphans", ["drop", "zero"])
def test_orphans_of_files_are_those_of_frames(bundle, rows, tmp_path, monkeypatch, orphans):
    frame = pl.DataFrame({**rows, "click": 0 * rows["click"]})
    frame = pl.concat([frame, pl.DataFrame(rows)])
    frame.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(model, "PIECE_ROWS", 300)
    with pytest.raises(DataError, match="where its parent 'click' = 0"):
        bundle.evaluate(tmp_path / "rows.parquet")
    one, other = (
        {s.name: (s.rows, s.positives, s.metrics.get("auc", {}).get("value")) for s in card}
        for card in (
            bundle.evaluate(each, orphans=orphans) for each in (tmp_path / "rows.parquet", frame)
        )
    )
    assert one.keys() == other.keys()
    for name, (count, positives, auc) in one.items():
        assert (count, positives) == other[name][:2]
        assert auc == pytest.approx(other[name][2], abs=1e-4)  # batches of other rows round so


def test_counts_of_files_are_those_of_all_pieces(bundle, rows, tmp_path, monkeypatch, caplog):
    frame = pl.DataFrame({**rows, "user": [10**15] * 500}).drop(["click", "buy", "spend"])
    frame.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(model, "PIECE_ROWS", 200)
    with caplog.at_level("INFO"):
        bundle.predict(tmp_path / "rows.parquet")
    (line,) = [each for each in caplog.messages if "unseen" in each]
    assert line.startswith("rows: unseen or rare ids of 500 rows: user 500")


def test_a_fault_in_a_later_piece_says_where_it_begins(bundle, rows, tmp_path, monkeypatch):
    frame = pl.DataFrame(rows).with_columns(price=pl.Series([1.0] * 450 + [np.inf] * 50))
    frame.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(model, "PIECE_ROWS", 200)
    with pytest.raises(DataError, match=r"50 infinite.* \(row 0 is here row 400 of the data"):
        bundle.predict(tmp_path / "rows.parquet")
    frame.clear().write_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="there are no rows to predict"):
        bundle.predict(tmp_path / "none.parquet")


def test_a_missing_feature_is_refused_with_the_nearest(bundle, rows):
    wrong = {name: rows[name] for name in FEATURES if name != "price"} | {"prize": rows["price"]}
    with pytest.raises(DataError, match=r"column 'price' is not in the data; did you mean 'prize'"):
        bundle.predict(wrong)


def test_infinite_numbers_are_refused_at_prediction_too(bundle, rows):
    wrong = {name: rows[name][:3] for name in FEATURES} | {"price": [1.0, np.inf, -np.inf]}
    with pytest.raises(DataError, match=r"'price' has 2 infinite values"):
        bundle.predict(wrong)


def test_a_row_without_a_finite_prediction_is_refused_by_column():
    schema = pr.Schema([pr.DenseFeature("x", encoding="standard")], [pr.Task("click")])
    train = {"x": np.linspace(-1e-3, 1e-3, 40), "click": [0, 1] * 20}
    small = pr.fit(schema, pr.Model(), train=train, epochs=1)
    with pytest.raises(
        DataError, match=r"1 of 3 rows, the first of them row 1, .*: dense feature 'x' reaches inf"
    ):
        small.predict({"x": [1e-3, 3e38, 0.0]})


def test_ids_of_other_types_are_the_same_ids(bundle, rows):
    text = {name: rows[name] for name in FEATURES} | {"user": [str(u) for u in rows["user"]]}
    assert bundle.predict(text).equals(bundle.predict(rows))


def test_a_bundle_prints_a_few_telling_lines(bundle):
    shown = repr(bundle)
    assert str(bundle) == shown
    assert len(shown.splitlines()) == 7
    assert shown.startswith("Bundle 'fit'\n  tasks       click, buy given click, spend given buy\n")
    assert f"epoch {bundle.kept_epoch} of 2: total loss " in shown
    page = bundle._repr_html_()
    assert page.count("<table>") == 2
    assert "<th>click @ all auc</th>" in page


def test_labels_that_are_not_binary_are_refused(bundle, rows):
    with pytest.raises(
        DataError, match=r"label 'click' of task 'click' must hold 0, 1 or null.*got 3"
    ):
        bundle.evaluate({**rows, "click": np.full(500, 3)})


def test_the_rule_for_orphans_is_the_runs_own(rows):
    odd = {name: list(rows[name]) for name in ("user", "click", "buy")}
    odd["click"][0], odd["buy"][0] = 0, 1
    schema = pr.Schema(
        [pr.SparseFeature("user")], [pr.Task("click"), pr.Task("buy", given="click")]
    )
    dropping = pr.fit(schema, pr.Model(), train=odd, orphans="drop", epochs=1)
    assert dropping.evaluate(odd)["click @ all"].rows == 499
    assert dropping.segments(odd, ["score decile"], score="click @ all")["rows"].sum() == 499
    assert dropping.evaluate(odd, orphans="zero")["click @ all"].rows == 500
    strict = pr.fit(schema, pr.Model(), train={**odd, "buy": [0, *odd["buy"][1:]]}, epochs=1)
    with pytest.raises(DataError, match=r"set orphans .*--orphans of evaluate.* to 'drop'"):
        strict.evaluate(odd)


def test_truth_columns_are_scored_and_never_features(bundle, rows):
    truth = bundle.predict(rows)
    known = {f"true_{name}": truth[name] for name in OUTPUTS[:3]}
    card = bundle.evaluate({**rows, **known})
    assert card["buy @ all"].truth["mae"] == 0
    assert card.value("buy|click @ all", "auc") == pytest.approx(
        card["buy|click @ all"].truth["oracle_auc"]
    )
    assert card["buy|click @ all"].rows is None
