"""What every test stands on: one thread, no network, the same examples in CI."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy or torch is imported: two threads on a busy machine with two cores can be many times
# slower than one. Tests that need no torch do not import it, so the environment says it.
for variable in (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS",
):  # fmt: skip
    os.environ[variable] = "1"
# Else torch.compile starts a pool of processes, which may outlive the tests and write beside them.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

collect_ignore = ["typing"]  # code for type checkers, which `make typing` starts

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuse every socket that leaves this machine, in this process and in those it starts."""
    folder = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        # imported under this name it installs its hook; another sitecustomize may be there already
        patch.delitem(sys.modules, "sitecustomize", raising=False)
        import sitecustomize

        assert Path(sitecustomize.__file__).parent == Path(folder)
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Undo a thread count that a test's own training set."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def without_defaults(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take the defaults of dataclasses away: what still builds them says every option itself."""

    def take(*specs: type) -> None:
        for each in specs:
            monkeypatch.setattr(each.__init__, "__defaults__", None)
            monkeypatch.setattr(each.__init__, "__kwdefaults__", None)
            with pytest.raises(TypeError, match="missing"):
                each()

    return take
