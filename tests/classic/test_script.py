"""The tutorial's script runs with its import lines changed, and unchanged through the runner."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tests.classic.conftest import DENSE, SPARSE, sample

from polyrank.classic import script
from polyrank.errors import ConfigError

TUTORIAL = """
import sys

import numpy as np
import polars as pl
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

parts = [pl.read_csv(f"ali_ccp_{split}.csv") for split in ("train", "val", "test")]
first, second = len(parts[0]), len(parts[0]) + len(parts[1])
table = pl.concat(parts).rename({"purchase": "cvr_label", "click": "ctr_label"})
data = {name: table[name].to_numpy() for name in table.columns}
data["ctcvr_label"] = data["cvr_label"] * data["ctr_label"]
dense = [name for name in data if name.startswith("D")]
sparse = [name for name in data if name not in dense and name not in ("cvr_label", "ctr_label")]
print(len(sparse), "sparse features")


def run(model, used, columns):
    cut = lambda start, stop: (
        {name: data[name][start:stop] for name in used},
        np.stack([data[name][start:stop] for name in columns], axis=1),
    )
    (x, y), (x_val, y_val), (x_test, y_test) = cut(0, first), cut(first, second), cut(second, None)
    train, val, test = DataGenerator(x, y).generate_dataloader(
        x_val=x_val, y_val=y_val, x_test=x_test, y_test=y_test, batch_size=20, num_workers=4
    )
    trainer = MTLTrainer(
        model, task_types=["classification", "classification"],
        optimizer_params={"lr": 1e-3, "weight_decay": 1e-5}, n_epoch=2, earlystop_patience=3,
        device="cpu", model_path=sys.argv[1],
    )
    trainer.fit(train, val)
    print("test auc:", len(trainer.evaluate(trainer.model, test)))


torch.manual_seed(2022)
item = ["129", "205", "206", "207", "210", "216"]
wide = {name: SparseFeature(name, data[name].max() + 1, embed_dim=16) for name in sparse}
run(
    ESMM([wide[n] for n in sparse if n not in item], [wide[n] for n in item],
         cvr_params={"dims": [16, 8]}, ctr_params={"dims": [16, 8]}),
    sparse, ["cvr_label", "ctr_label", "ctcvr_label"],
)
features = [SparseFeature(name, data[name].max() + 1, embed_dim=4) for name in sparse]
run(
    MMOE(features + [DenseFeature(name) for name in dense], ["classification"] * 2, 8,
         expert_params={"dims": [16]}, tower_params_list=[{"dims": [8]}, {"dims": [8]}]),
    sparse + dense, ["cvr_label", "ctr_label"],
)
"""


@pytest.fixture
def folder(tmp_path):
    for seed, (split, rows) in enumerate({"train": 200, "val": 100, "test": 100}.items()):
        data = pl.DataFrame(sample(rows, seed))
        data.select("click", "purchase", *SPARSE, *DENSE).write_csv(
            tmp_path / f"ali_ccp_{split}.csv"
        )
    (tmp_path / "tutorial.py").write_text(TUTORIAL, encoding="utf-8")
    changed = TUTORIAL
    for module in ("basic.features", "models.multi_task", "trainers", "utils.data"):
        changed = changed.replace(f"torch_rechub.{module}", "polyrank.classic")
    (tmp_path / "changed.py").write_text(changed, encoding="utf-8")
    return tmp_path


def ran(folder, *arguments):
    source = str(Path(script.__file__).parents[2])
    path = os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [["-m", "polyrank.classic", "tutorial.py"], ["changed.py"]])
def test_the_tutorial_runs(folder, how):
    answer = ran(folder, *how, "saved")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["24 sparse features", "test auc: 3", "test auc: 2"]
    leaks = [line for line in answer.stderr.splitlines() if "LeakageWarning" in line]
    assert [line.split("LeakageWarning: ")[1].split(" equals")[0] for line in leaks] == [
        "ESMM: feature 'ctcvr_label'",
        "MMOE: feature 'ctcvr_label'",
    ]
    assert answer.stderr.count("CTR and CTCVR are trained all the same") == 1
    assert (folder / "saved" / "model_base_0.pth").is_file()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from torch_rechub.models.ranking import DeepFM", "models.ranking"),
        ("from torch_rechub.trainers import CTRTrainer", "trainers.CTRTrainer"),
        ("import torch_rechub.basic.layers", "basic.layers"),
        (
            "from torch_rechub.models import MMOE",
            "models.MMOE, .*; it is torch_rechub.models.multi_task.MMOE",
        ),
    ],
)
def test_an_unknown_import_is_refused_by_name(tmp_path, line, name):
    path = tmp_path / "other.py"
    path.write_text(line, encoding="utf-8")
    before = list(sys.meta_path)
    with pytest.raises(ConfigError, match=f"classic does not have torch_rechub.{name}"):
        script.run(path)
    assert sys.meta_path == before
    assert not [name for name in sys.modules if name.startswith("torch_rechub")]


def test_a_script_sees_its_arguments_and_its_folder(tmp_path):
    (tmp_path / "beside.py").write_text("value = 3", encoding="utf-8")
    path = tmp_path / "main.py"
    path.write_text(
        "import sys, beside\nimport torch_rechub.models.multi_task.esmm as module\n"
        "found = (sys.argv[1:], beside.value, __name__, module.ESMM.__module__)",
        encoding="utf-8",
    )
    found = script.run(path, ["--epochs", "2"])["found"]
    assert found == (["--epochs", "2"], 3, "__main__", "polyrank.classic.models")
    sys.modules.pop("beside")


@pytest.mark.slow
def test_the_command_has_exit_codes(tmp_path):
    (tmp_path / "bad.py").write_text("import torch_rechub.serving", encoding="utf-8")
    answer = ran(tmp_path, "-m", "polyrank.classic", "bad.py")
    assert answer.returncode == 1
    assert answer.stderr.startswith("polyrank: polyrank.classic does not have torch_rechub.serving")
    assert ran(tmp_path, "-m", "polyrank.classic", "absent.py").returncode == 1
    assert ran(tmp_path, "-m", "polyrank.classic").returncode == 2
    assert "usage" in ran(tmp_path, "-m", "polyrank.classic", "--help").stderr


def test_an_unknown_import_is_an_import_error_that_a_script_may_catch(tmp_path):
    path = tmp_path / "careful.py"
    path.write_text(
        "import torch_rechub\n"
        "try:\n    import torch_rechub.models.ranking\n"
        "except ImportError:\n    found = torch_rechub.__version__\n",
        encoding="utf-8",
    )
    assert script.run(path)["found"] == script.UPSTREAM
