"""How much memory rows may take: what is said, and what the machine and its cgroups leave."""

import re

import pytest

from polyrank.data import memory
from polyrank.errors import ConfigError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("auto", None), ("2GiB", 2 << 30), ("1.5 gib", 3 << 29), ("800MB", 800_000_000),
        (3 * MIB, 3 * MIB), ("3145728", 3 * MIB), ("64 MiB", 64 * MIB), ("2097152B", 2 * MIB),
    ],
)  # fmt: skip
def test_sizes(size, expected):
    assert memory.bytes_of(size) == expected


@pytest.mark.parametrize("size", ["much", "2 GiB of it", "-1GiB", "1GiBB", True, 1.5, "", "5X"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ConfigError, match=re.escape(repr(size))):
        memory.bytes_of(size)


def test_too_little_is_refused():
    with pytest.raises(ConfigError, match="at least 1MiB, got '9kb'"):
        memory.bytes_of("9kb")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 100 MiB free; returns what writes a file of it."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", f"MemTotal: 999999 kB\nMemAvailable: {100 * 1024} kB\n")
    return write


def version_2(write, folder, limit, used, files=0):
    write(f"cgroup/{folder}/memory.max", limit)
    write(f"cgroup/{folder}/memory.current", str(used))
    write(f"cgroup/{folder}/memory.stat", f"anon 5\ninactive_file {files}\n")


@pytest.mark.usefixtures("system")
def test_without_cgroups_it_is_the_machine():
    assert memory.free() == 100 * MIB
    assert memory.resolved("auto") == 50 * MIB
    assert memory.resolved("7MiB") == 7 * MIB


def test_the_narrowest_group_above_counts(system):
    system("proc/self/cgroup", "0::/jobs/mine\n")
    version_2(system, "jobs/mine", "max\n", 9 * MIB)
    assert memory.free() == 100 * MIB
    version_2(system, "jobs", f"{60 * MIB}\n", 30 * MIB, files=10 * MIB)
    assert memory.free() == 40 * MIB
    version_2(system, "jobs/mine", f"{20 * MIB}\n", 9 * MIB)
    assert memory.free() == 11 * MIB
    version_2(system, "jobs/mine", f"{20 * MIB}\n", 90 * MIB)
    assert memory.free() == 0
    assert memory.resolved("auto") == MIB


def test_groups_of_version_1(system):
    system("proc/self/cgroup", "9:cpu:/x\n8:memory:/mine\n1:name=systemd:/\n")
    system("cgroup/memory/mine/memory.limit_in_bytes", str(30 * MIB))
    system("cgroup/memory/mine/memory.usage_in_bytes", str(12 * MIB))
    system("cgroup/memory/mine/memory.stat", f"cache 3\ntotal_inactive_file {2 * MIB}\n")
    assert memory.free() == 20 * MIB


def refuse(name):
    raise ValueError(name)


def test_a_system_that_says_nothing_sets_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory.os, "sysconf", refuse)
    assert memory.free() is None
    assert memory.resolved("auto") is None
