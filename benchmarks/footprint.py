"""What an installation takes and how soon it starts, beside its peers.

Each has an environment of its own. Sizes are those of site-packages after a plain `pip install`,
without pip, setuptools and bytecode. Seconds are those of whole processes that take turns; the
first round, in which bytecode is written, is left out.

    python benchmarks/footprint.py [--rounds 9]

Writes results/footprint.json. Needs pip's index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from parts.record import RESULTS, origin, write

from polyrank.text import aligned

PROJECT = Path(__file__).parents[1]
# DeepCTR-Torch imports requests, and FuxiCTR torch, which they do not ask for.
INSTALLED = {
    "polyrank": [str(PROJECT)],
    "Torch-RecHub": ["torch-rechub"],
    "DeepCTR-Torch": ["deepctr-torch", "requests"],
    "FuxiCTR": ["fuxictr", "torch"],
    "polyrank, serving": ["--requirement", str(PROJECT / "serve-requirements.txt")],
}
RECHUB = (
    "from torch_rechub.models.multi_task import MMOE\nfrom torch_rechub.trainers import MTLTrainer"
)
STARTED = {
    "python": ("polyrank", "python", "-c", "pass"),
    "polyrank --help": ("polyrank", "polyrank", "--help"),
    "import polyrank": ("polyrank", "python", "-c", "import polyrank"),
    "import torch": ("polyrank", "python", "-c", "import torch"),
    "polyrank's MMoE and fit": (
        "polyrank", "python", "-c", "import polyrank; polyrank.fit, polyrank.MMoE",
    ),
    "Torch-RecHub's MMOE and MTLTrainer": ("Torch-RecHub", "python", "-c", RECHUB),
    "DeepCTR-Torch's MMOE": (
        "DeepCTR-Torch", "python", "-c", "from deepctr_torch.models import MMOE",
    ),
    "FuxiCTR's MultiTaskModel": (
        "FuxiCTR", "python", "-c", "from fuxictr.pytorch.models import MultiTaskModel",
    ),
}  # fmt: skip


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.stdout


def installed(environment: Path, requirements: list[str]) -> dict[str, int]:
    """Install into a new environment; return the packages and their MiB, with those of torch."""
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", *requirements)
    if "--requirement" in requirements:
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(PROJECT))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    sizes: dict[str, int] = {}
    for file in site.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            package = file.relative_to(site).parts[0]
            sizes[package] = sizes.get(package, 0) + file.stat().st_size
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
    sizes = {name: size for name, size in sizes.items() if not name.startswith(tools)}
    torch = sum(
        sizes.get(name, 0) for name in ("torch", "torchgen", "functorch", "nvidia", "triton")
    )
    return {
        "packages": sum(name.endswith(".dist-info") for name in sizes),
        "MiB": round(sum(sizes.values()) / 2**20),
        "of torch": round(torch / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {key: installed(folder / key, needed) for key, needed in INSTALLED.items()}
        pip = (sys.executable, "-m", "pip")
        run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, PROJECT)
        wheel = next(folder.glob("polyrank-*.whl")).stat().st_size
        seconds: dict[str, list[float]] = {key: [] for key in STARTED}
        for number in range(rounds + 1):
            for key, (where, program, *arguments) in STARTED.items():
                start = perf_counter()
                run(folder / where / "bin" / program, *arguments)
                if number:
                    seconds[key].append(perf_counter() - start)
    print(f"wheel: {wheel / 1e6:.2f} MB\n")
    columns = ["installed", *next(iter(sizes.values()))]
    print(aligned(columns, [[key, *map(str, each.values())] for key, each in sizes.items()]))
    rows = [
        [key, f"{median(each):.3f}", f"{min(each):.3f}…{max(each):.3f}"]
        for key, each in seconds.items()
    ]
    print(aligned(["started", "seconds", "range"], rows))
    found = {"wheel": wheel, "installed": sizes, "seconds": seconds}
    write(RESULTS / "footprint.json", {**origin(), **found})


if __name__ == "__main__":
    main()
