"""Runs a script whose imports of `torch_rechub` are answered from here."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from polyrank import classic
from polyrank.errors import ConfigError, NotAnsweredError, did_you_mean

ROOT = "torch_rechub"
UPSTREAM = "0.9.0"  # whose calls are answered
MODELS = ["AITM", "ESMM", "MMOE", "PLE", "SharedBottom"]
FEATURES = ["DenseFeature", "SequenceFeature", "SparseFeature"]
# What each of upstream's modules is asked for; the others hold nothing for this door.
ANSWERED = {
    ROOT: [],
    f"{ROOT}.models": [],
    f"{ROOT}.models.multi_task": MODELS,
    **{f"{ROOT}.models.multi_task.{name.lower()}": [name] for name in MODELS[:-1]},
    f"{ROOT}.models.multi_task.shared_bottom": ["SharedBottom"],
    f"{ROOT}.basic": [],
    f"{ROOT}.basic.features": FEATURES,
    f"{ROOT}.utils": [],
    f"{ROOT}.utils.data": ["DataGenerator", "df_to_dict", "pad_sequences"],
    f"{ROOT}.trainers": ["MTLTrainer"],
    f"{ROOT}.trainers.mtl_trainer": ["MTLTrainer"],
}


class _Answer(Loader):
    """Fills a module with what is answered."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        names = ANSWERED[module.__name__]
        vars(module).update({name: getattr(classic, name) for name in names})
        vars(module)["__all__"] = names
        vars(module)["__version__"] = UPSTREAM


class _Module(ModuleType):
    """A module that refuses what it does not have by name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in ANSWERED:  # a submodule that is not imported yet
            raise AttributeError(name)
        raise NotAnsweredError(_message(f"{self.__name__}.{name}"))


class Finder(MetaPathFinder):
    """Answers `torch_rechub`, whether it is installed or not."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return how to make a module of `torch_rechub`; None leaves others to the next finder.

        Raises:
            NotAnsweredError: one that this door does not answer; an ImportError too.
        """
        if fullname != ROOT and not fullname.startswith(f"{ROOT}."):
            return None
        if fullname not in ANSWERED:
            raise NotAnsweredError(_message(fullname))
        return ModuleSpec(fullname, _Answer(), is_package=True)


def run(path: str | Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run a script as `python script.py arguments` would, and return its namespace.

    Raises:
        ConfigError: no such file, or a name of `torch_rechub` that is not answered.
    """
    script = Path(path)
    if not script.is_file():
        raise ConfigError(f"no such script: {str(path)!r} (looked in {str(Path.cwd())!r})")
    before = (list(sys.argv), list(sys.path), list(sys.meta_path))
    present = {name: sys.modules.pop(name) for name in list(sys.modules) if _of_root(name)}
    sys.argv[:] = [str(path), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    sys.meta_path.insert(0, Finder())
    try:
        return runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv[:], sys.path[:], sys.meta_path[:] = before
        for name in [name for name in sys.modules if _of_root(name)]:
            del sys.modules[name]
        sys.modules.update(present)


def _of_root(name: str) -> bool:
    return name == ROOT or name.startswith(f"{ROOT}.")


def _message(name: str) -> str:
    known = [f"{module}.{each}" for module, names in ANSWERED.items() for each in names]
    last = [each for each in known if each.rsplit(".", 1)[1] == name.rsplit(".", 1)[1]]
    hint = f"; it is {last[0]}" if last else did_you_mean(name, known)
    return (
        f"{name} is not answered by polyrank.classic, which speaks the multi-task part{hint}. "
        "Run the script with torch-rechub itself for the rest, or see docs/migration.md"
    )
