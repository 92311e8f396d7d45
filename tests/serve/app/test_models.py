"""One bundle after another under one name: whole, or not at all."""

import gc
import shutil
import weakref
from itertools import count, cycle

import pytest

import polyrank as pr
from polyrank.bundle import format
from polyrank.errors import BundleError, ConfigError
from polyrank.serve.app.models import Model, Models, named

MOST = 100


@pytest.fixture
def model(run_folder, exported):
    return Models.open([str(run_folder(exported))], MOST).first


def test_a_new_bundle_takes_the_place_of_the_old_one(model, run_folder, exported, later):
    before = model.current
    assert (before.name, before.version) == ("default", pr.Engine(exported).version)
    assert not model.changed
    run_folder(later)
    assert model.changed
    assert model.current is before
    assert model.reload()
    assert not model.changed
    assert model.current.version == pr.Engine(later).version != before.version
    assert model.current.scorer.engine is model.current.engine


def test_the_old_one_is_freed_without_the_collector(model, run_folder, later):
    """The collector leaves alone what was frozen at the start."""
    run_folder(later)
    gone = weakref.ref(model.current.engine)
    gc.disable()
    try:
        model.reload()
        assert gone() is None
    finally:
        gc.enable()


def test_the_same_bundle_is_not_loaded_again(model, run_folder, exported):
    before = model.current
    run_folder(exported)
    assert model.changed
    assert not model.reload()
    assert model.current is before


def test_a_damaged_bundle_is_refused_once_and_the_old_one_stays(model, run_folder, later):
    before = model.current
    folder = run_folder(later)
    with (folder / "bundle" / "model.onnx").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that was written"):
        model.reload()
    assert model.current is before
    assert not model.changed  # it is not tried again until something else is there
    run_folder(later)
    assert model.changed
    assert model.reload()


def test_a_bundle_that_is_away_for_good_is_refused(model, run_folder, exported, monkeypatch):
    monkeypatch.setattr("polyrank.serve.app.models._ABSENT_S", 0)
    shutil.rmtree(run_folder(exported))
    assert not model.changed
    with pytest.raises(BundleError, match="does not exist"):
        model.reload()
    run_folder(exported)
    assert model.changed


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(
    run_folder, exported, later, monkeypatch
):
    """Its vocabularies were read, and its graph was not: both must be of one bundle."""
    folder, session, times = run_folder(exported), pr.serve.engine.Session, []

    def slow(file, threads):
        if not times:
            run_folder(later)
        times.append(file)
        return session(file, threads)

    monkeypatch.setattr("polyrank.serve.engine.Session", slow)
    found = pr.Engine(folder)
    assert len(times) == 2
    assert found.version == pr.Engine(later).version
    assert found.vocab.tables["url"].rows == pr.Engine(later).vocab.tables["url"].rows


def test_a_bundle_that_is_always_replaced_is_refused(run_folder, exported, later):
    folder, bundles = run_folder(exported) / "bundle", cycle([later, exported])
    with pytest.raises(
        BundleError, match="was replaced 5 times while it was read: write it less often"
    ):
        format.undisturbed(folder, lambda: run_folder(next(bundles)))


def test_a_disk_whose_files_never_look_the_same_is_read_all_the_same(exported, monkeypatch):
    looks, times = count(), []
    monkeypatch.setattr(format, "identity", lambda _: (next(looks),))
    assert format.undisturbed(exported, lambda: times.append(1) or "whole") == "whole"
    assert len(times) == 5


def test_what_is_refused_while_it_is_replaced_is_read_again(run_folder, exported):
    folder, times = run_folder(exported) / "bundle", []

    def load():
        times.append(1)
        if len(times) == 1:
            run_folder(exported)
            raise BundleError("half of one")
        return "whole"

    assert format.undisturbed(folder, load) == "whole"


def test_an_engine_without_a_folder_is_never_replaced(engine):
    model = Model("mine", engine, MOST)
    assert not model.changed
    with pytest.raises(
        ConfigError, match="model 'mine' was not read from a folder: there is no other"
    ):
        model.reload()


@pytest.mark.parametrize("name", ["", "a/b", "ü", ".hidden", "x" * 65])
def test_a_name_is_one_segment_of_a_path(engine, name):
    with pytest.raises(ConfigError, match="the name of a model must be 1 to 64 letters"):
        Model(name, engine, MOST)


def test_names_are_told_apart(engine):
    with pytest.raises(ConfigError, match="two models are called 'a': name each bundle, as in"):
        Models([Model("a", engine, MOST)] * 2)
    with pytest.raises(ConfigError, match="a server needs a model, got none"):
        Models([])


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "seed=1"
    folder.mkdir()
    assert named(str(folder)) == ("default", folder)
    assert named("new=runs/seed=2")[0] == "new"
