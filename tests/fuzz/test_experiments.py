"""A TOML file is an experiment, or a ConfigError or SchemaError says why not."""

import tomllib
from contextlib import suppress

import tomli_w
from hypothesis import strategies as st
from tests.fuzz.test_bundles import VALUES, changed, places
from tests.test_config import FULL

from polyrank.config import Experiment
from polyrank.errors import ConfigError, SchemaError

TABLE = tomllib.loads(FULL)
WORDS = st.sampled_from(
    ["kind", "name", "given", "space", "debias", "wide", "trees", "mmoe", "all", "encoding", "bins"]
)
NEW = st.one_of(
    VALUES.filter(lambda value: value is not None),
    WORDS,
    st.dictionaries(WORDS, st.one_of(WORDS, st.integers(-1, 3)), max_size=2),
)


def read(text, folder):
    """The experiment of a text, written and read once more; None where it is refused."""
    file = folder / "e.toml"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        found = Experiment.load(file)
    except (ConfigError, SchemaError):
        return
    again = Experiment.from_table(tomllib.loads(found.to_toml()), folder=folder)
    assert again.to_table() == found.to_table()


def test_tables_of_other_values(fuzz, tmp_path):
    place = st.sampled_from([at for at in places(TABLE) if at])

    def check(changes):
        table = TABLE
        for at, key, new in changes:
            with suppress(KeyError, TypeError, IndexError, AttributeError):
                table = changed(table, (*at[:-1], key) if key else at, new)
        with suppress(TypeError, OverflowError):  # what TOML cannot say
            read(tomli_w.dumps(table), tmp_path)

    change = st.tuples(place, st.one_of(st.none(), WORDS), st.one_of(NEW, st.just(...)))
    fuzz(st.lists(change, min_size=1, max_size=3), check)


def test_texts(fuzz, tmp_path):
    lines = FULL.splitlines()
    line = st.one_of(st.sampled_from(lines), st.text(max_size=20))
    fuzz(st.lists(line, max_size=40), lambda found: read("\n".join(found), tmp_path))
