"""`polyrank check`, and the warning of a leak in `polyrank train`."""

import json

import polars as pl
import pytest

HEADER = "rows: train 400, valid 100, test 100"


def paid(folder, *, wrong=4):
    """Give each split a column that as good as states the purchase."""
    for name in ("train.parquet", "valid.csv", "test.parquet"):
        path = folder / name
        frame = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
        told = frame["purchase"].to_list()
        told[:wrong] = [1 - each for each in told[:wrong]]
        frame = frame.with_columns(paid=pl.Series(["yes" if each else "no" for each in told]))
        (frame.write_csv if path.suffix == ".csv" else frame.write_parquet)(path)


@pytest.mark.usefixtures("folder")
def test_a_clean_log_is_audited(command):
    code, out, _ = command("check", "exp.toml")
    assert code == 0
    assert out.startswith(HEADER)
    assert out.rstrip().splitlines()[-1].startswith("0 errors, 0 warnings, ")
    code, found, _ = command("check", "exp.toml", "--json")
    assert code == 0
    assert found["rows"] == {"train": 400, "valid": 100, "test": 100}
    assert {each["severity"] for each in found["findings"]} == {"info"}


def test_an_error_is_printed_and_the_exit_code_is_1(folder, command):
    frame = pl.read_parquet(folder / "train.parquet")
    frame.with_columns(click=pl.lit(0)).write_parquet(folder / "train.parquet")
    code, out, err = command("check", "exp.toml")
    assert code == 1
    assert "error    orphans: train: " in out
    assert err == ""
    code, out, _ = command("check", "exp.toml", "--json")
    assert code == 1
    found = json.loads(out)["findings"]
    assert found[0]["severity"] == "error"
    code, out, _ = command("check", "exp.toml", "--set", "data.orphans=drop")
    assert code == 1
    assert "no-positives: train: 'click @ all' has no positives" in out
    assert "by orphans = 'drop' they are left out" in out


def test_a_split_source_is_audited(folder, command):
    whole = pl.concat([pl.read_parquet(folder / f"{name}.parquet") for name in ("train", "test")])
    whole.write_csv(folder / "all.csv")
    text = (folder / "exp.toml").read_text()
    files = 'train = "train.parquet"\nvalid = "valid.csv"\ntest = "test.parquet"'
    text = text.replace(files, 'source = "all.csv"\nsplit = { by = "user" }')
    (folder / "exp.toml").write_text(text)
    code, out, _ = command("check", "exp.toml")
    assert code == 0
    assert "user-overlap: 0.0% of the rows of test are of 0 users who are in train too" in out


def test_a_missing_column_is_the_usual_message(folder, command):
    pl.read_parquet(folder / "test.parquet").drop("item").write_parquet(folder / "test.parquet")
    code, out, err = command("check", "exp.toml")
    assert (code, out) == (1, "")
    assert "test.parquet: column 'item' is not in the data" in err


def test_train_warns_of_a_leak_in_one_line(folder, command, caplog):
    paid(folder)
    added = 'features.sparse=["user", "item", "paid"]'
    code, _, err = command("train", "exp.toml", "--set", added, "--set", "train.epochs=1")
    assert code == 0
    told = [each for each in caplog.records if each.name == "polyrank.cli.app"]
    assert [each.levelname for each in told] == ["WARNING"]
    assert told[0].getMessage().startswith("feature 'paid' may state the label of 'buy")
    assert ".py" not in told[0].getMessage()
    assert "Warning: " not in err
    code, out, _ = command("check", "exp.toml", "--set", added)
    assert code == 0
    assert "warning  may-state-label: feature 'paid' may state the label of 'buy" in out
