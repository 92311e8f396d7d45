"""Runs a script, with its imports of `torch_rechub` resolved from polyrank.classic."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from polyrank import classic
from polyrank.errors import ConfigError, PolyrankError, UnknownImportError, did_you_mean

ROOT = "torch_rechub"
USAGE = "usage: python -m polyrank.classic script.py [arguments]"
UPSTREAM = "0.9.0"  # the version whose calls are spoken
MODELS = ["AITM", "ESMM", "MMOE", "PLE", "SharedBottom"]
FEATURES = ["DenseFeature", "SequenceFeature", "SparseFeature"]
# The names that each of upstream's modules has here.
MODULES = {
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


def main(arguments: list[str]) -> int:
    """Run a script; exit code 1 with a message for an error, 2 for wrong usage."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{USAGE}\n")
        return 0 if arguments else 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("polyrank").setLevel(logging.INFO)
    try:
        run(arguments[0], arguments[1:])
    except PolyrankError as error:
        sys.stderr.write(f"polyrank: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


class _Module(ModuleType):
    """A module that refuses an unknown name with the nearest."""

    def __getattr__(self, name: str) -> Any:
        # Python's own, or a submodule that is not imported yet.
        if name.startswith("__") or f"{self.__name__}.{name}" in MODULES:
            raise AttributeError(name)
        raise UnknownImportError(_message(f"{self.__name__}.{name}"))


class Finder(MetaPathFinder, Loader):
    """Finds `torch_rechub` here, whether it is installed or not, and fills its modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a module of `torch_rechub`; None leaves others to the next finder."""
        if not _of_root(fullname):
            return None
        if fullname not in MODULES:
            raise UnknownImportError(_message(fullname))
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        names = MODULES[module.__name__]
        vars(module).update({name: getattr(classic, name) for name in names})
        vars(module).update(__all__=names, __version__=UPSTREAM)


def run(path: str | Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run a script as `python script.py arguments` would, and return its namespace."""
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
    known = [f"{module}.{each}" for module, names in MODULES.items() for each in names]
    last = [each for each in known if each.rsplit(".", 1)[1] == name.rsplit(".", 1)[1]]
    hint = f"; it is {last[0]}" if last else did_you_mean(name, known)
    return (
        f"polyrank.classic does not have {name}, only the multi-task part{hint}. "
        "For the rest, run the script with torch-rechub itself, or see docs/migration.md"
    )
