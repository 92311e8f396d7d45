"""A bundle whose files are not what was written is refused as such, or predicts; nothing else."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

import polyrank as pr
from polyrank.bundle.format import MANIFEST
from polyrank.errors import PolyrankError

# What a table of JSON may hold instead of what was there.
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**31, 2**40, -(2**63), 2**70]),
    st.floats(), st.text(max_size=4), st.just([]), st.just({}),
    st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip


def places(value, at=()):
    """Every place in a tree of JSON."""
    yield at
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*at, key))


def changed(value, at, new):
    """The tree with something else at a place; `...` takes it out."""
    if not at:
        return new
    copy = value.copy()
    if new is ... and len(at) == 1:
        del copy[at[0]]
    else:
        copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


def damaged(data, cut, at, byte, drop):
    """The bytes of a file with some of them changed, taken out or cut off."""
    where = at % (len(data) + 1)
    if cut:
        return data[:where]
    return data[:where] + byte + data[where + drop :]


def used(folder, rows):
    """Load a bundle both ways and predict; whatever is refused is refused as polyrank does."""
    for opens in (pr.load, pr.Engine):
        with suppress(PolyrankError):
            opens(folder).predict({name: values[:3] for name, values in rows.items()})


def with_checksums(folder, manifest):
    """Write a manifest whose checksums are those of the files, as an attacker would."""
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if isinstance(listed, dict):
        for name in listed:
            with suppress(OSError, ValueError):
                listed[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_files_of_other_bytes(fuzz, folder, rows):
    names = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    damage = st.tuples(
        st.booleans(), st.integers(0, 2**20), st.binary(max_size=8), st.integers(0, 8)
    )

    def check(example):
        (name, how, whole) = example
        with TemporaryDirectory() as place:
            copy = Path(place) / "bundle"
            shutil.copytree(folder, copy)
            file = copy / name
            file.write_bytes(damaged(file.read_bytes(), *how))
            if whole and name != MANIFEST:
                with_checksums(copy, json.loads((copy / MANIFEST).read_text(encoding="utf-8")))
            used(copy, rows)

    fuzz(st.tuples(st.sampled_from(names), damage, st.booleans()), check)


def test_manifests_of_other_values(fuzz, folder, rows):
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    place = st.sampled_from([at for at in places(manifest) if at])

    def check(example):
        at, new = example
        with TemporaryDirectory() as kept:
            copy = Path(kept) / "bundle"
            shutil.copytree(folder, copy)
            text = json.dumps(changed(manifest, at, new))
            (copy / MANIFEST).write_text(text, encoding="utf-8")
            used(copy, rows)

    fuzz(st.tuples(place, st.one_of(VALUES, st.just(...))), check)
