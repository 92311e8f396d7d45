"""`polyrank data`: what is refused names the path, and leaves nothing half-written."""

import polars as pl
import pytest

import polyrank as pr


@pytest.mark.parametrize("out", ["file/x", "file"])
@pytest.mark.usefixtures("folder")
def test_a_folder_that_cannot_be_is_named(folder, command, out):
    (folder / "file").write_text("")
    before = sorted(folder.rglob("*"))
    code, _, err = command("data", "make", "synthetic", "--rows", 1000, "--out", out)
    assert code == 1
    assert err.startswith(f"error: {out} cannot be written: ")
    assert sorted(folder.rglob("*")) == before


def test_leading_zeros_survive_the_command_line(folder, command):
    """Ids of a CSV file are what the file says, and so are the keys of the predictions."""
    text = (folder / "exp.toml").read_text().replace("train.parquet", "train.csv")
    (folder / "exp.toml").write_text(text.replace("test.parquet", "test.csv"))
    odd = {"train.csv": "K1A0B1", "valid.csv": "", "test.csv": ""}
    for name, extra in odd.items():
        rows = [f"{i % 40:05d},i{i % 4},1.5,{i % 2},0" for i in range(200)]
        rows += [f"{i:05d},i1,2,1,{i % 2}" for i in range(40)]
        rows += [f"{extra},i1,2,1,1"] if extra else []
        lines = "\n".join(["user,item,price,click,purchase", *rows])
        (folder / name).write_text(lines + "\n")
    assert command("train", "exp.toml")[0] == 0
    code, found, _ = command("predict", "runs/tiny", "test.csv", "-o", "out.csv", "--json")
    assert code == 0
    assert found["unseen"]["user"] == 0
    assert (folder / "out.csv").read_text().splitlines()[8].startswith("00007,")


@pytest.mark.usefixtures("folder")
def test_parts_of_the_world_are_made_and_make_an_experiment(folder, command):
    options = ["--rows", 1000, "--part", "reactions", "--part", "exposure", "--out", "more"]
    assert command("data", "make", "synthetic", *options)[0] == 0
    columns = pl.read_parquet(folder / "more" / "train.parquet").columns
    assert {"like", "true_p_like", "propensity", "exposed"} <= set(columns)
    tasks = pr.Experiment.load(folder / "more" / "experiment.toml").schema.tasks
    assert [task.name for task in tasks] == ["click", "buy", "like", "share", "hide"]
    code, _, err = command("data", "make", "synthetic", "--part", "exposre", "--out", "none")
    assert code == 1
    assert "unknown part 'exposre'; did you mean 'exposure'" in err
