"""The first import and the first --help stay light, and the public names are what they say."""

import json
import subprocess
import sys

import pytest

import polyrank
from polyrank.cli.app import VERBS

HEAVY = {"torch", "numba", "sklearn", "pandas"}


def heavy_modules_after(code):
    """Run code in a fresh process; return the heavy modules that it imported."""
    report = (
        "import sys, json\n"
        "try:\n"
        f"    exec({code!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return HEAVY & set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["polyrank", "polyrank.datasets", "polyrank.cli"])
def test_importing_is_light(module):
    assert heavy_modules_after(f"import {module}") == set()


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_is_light(verb):
    arguments = ["polyrank", *([verb] if verb else []), "--help"]
    code = f"sys.argv = {arguments!r}\nfrom polyrank.cli import main\nmain()"
    assert heavy_modules_after(code) == set()


def test_the_declared_names_are_light_too():
    code = "from polyrank import DenseFeature, Schema, Task\n"
    code += "print(Schema([DenseFeature('x')], [Task('click')]).objective)"
    assert heavy_modules_after(code) == set()


@pytest.mark.parametrize("name", polyrank.__all__)
def test_every_public_name_resolves(name):
    assert getattr(polyrank, name) is not None
    assert name in dir(polyrank)


def test_the_public_names_are_the_real_ones():
    assert len(set(polyrank.__all__)) == len(polyrank.__all__)
    namespace = {}
    exec("from polyrank import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(polyrank.__all__)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'MMOE'; did you mean 'MMoE'"):
        polyrank.MMOE  # noqa: B018
