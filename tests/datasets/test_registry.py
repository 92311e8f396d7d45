import pytest

from polyrank.datasets import DATASETS, find, load
from polyrank.errors import ConfigError
from polyrank.schema import Schema


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_leads_to_its_function(name):
    each = DATASETS[name]
    assert each.name == name
    assert callable(each.function)
    assert each.options
    assert all([each.summary, each.licence, each.rows])


def test_load_gives_three_frames_and_a_schema():
    train, valid, test, schema = load("synthetic", rows=1_000, seed=3)
    assert [frame.collect().height for frame in (train, valid, test)] == [800, 100, 100]
    assert isinstance(schema, Schema)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown data set 'cencus'; did you mean 'census'"):
        find("cencus")


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'synthetic': unknown option 'row'; did you mean 'rows'"):
        load("synthetic", row=10)


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        DATASETS["mine"] = DATASETS["census"]
