"""Features, tasks, keys: what is checked when a schema is built."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyrank.tasks
from polyrank.errors import ConfigError, SchemaError
from polyrank.schema import DenseFeature, Keys, Schema, SequenceFeature, SparseFeature, Task

ITEM = [SparseFeature("item")]


def schema(tasks, features=ITEM, keys=None):
    return Schema(features, tasks, keys or Keys())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schema([]), "at least one task"),
        (lambda: schema([Task("a")], []), "at least one feature"),
        (lambda: schema([Task("a"), Task("a")]), "task 'a' is declared twice"),
        (lambda: schema([Task("a")], [*ITEM, *ITEM]), "feature 'item' is declared twice"),
        (lambda: schema([Task("a", label="y"), Task("b", label="y")]), "label 'y' is declared twi"),
        (lambda: schema([Task("item")]), "'item' is both a feature and the label of task 'item'"),
        (lambda: schema([Task("a", label="item")]), "both a feature and the label of task 'a'"),
        (lambda: schema([Task("a")], keys=Keys(time="a")), "'a' is both a key and the label"),
        (lambda: Task("all"), "cannot be named 'all'"),
        (lambda: Task("not a name"), "must be an identifier, got 'not a name'"),
        (lambda: Task("a", kind="binry"), "unknown kind 'binry'; did you mean 'binary'"),
        (lambda: Task("a", weight=0), "weight must be a number above 0, got 0"),
        (lambda: Task("a", weight=float("nan")), "weight must be a number above 0"),
        (lambda: Task("a", positive_weight=-1), "positive_weight must be a number above 0"),
        (lambda: Task("a", kind="regression", positive_weight=2), "positive_weight needs an event"),
        (
            lambda: schema([Task("click"), Task("buy", given="clik")]),
            "unknown given 'clik'; did you mean 'click'",
        ),
        (
            lambda: schema([Task("a", kind="regression"), Task("b", given="a")]),
            "given must name an event, such as a binary task, got 'a'",
        ),
        (
            lambda: schema([Task("a", given="c"), Task("b", given="a"), Task("c", given="b")]),
            "in a cycle: a → c → b → a",
        ),
        (lambda: schema([Task("a", given="a")]), "in a cycle: a → a"),
        (lambda: schema([Task("a"), Task("b", space="a")]), "unknown space 'a' .known: 'all'"),
        (lambda: schema([Task("a", space=())]), "space is empty"),
        (lambda: schema([Task("a", space=("all", "all"))]), "space 'all' is declared twice"),
        (
            lambda: schema([Task("a"), Task("s", given="a", kind="regression", space="all")]),
            "space must be 'a', got 'all'",
        ),
        (
            lambda: schema([Task("buy"), Task("p_buy", kind="regression")]),
            "two tasks have the output column 'p_buy'",
        ),
        (
            lambda: schema([Task("click")], keys=Keys(user="p_click")),
            "output column 'p_click' is also a key",
        ),
        (
            lambda: SparseFeature("a", vocab_size=0),
            "vocab_size must be a whole number of at least 1, got ",
        ),
        (
            lambda: SparseFeature("a", embed_dim=-1),
            "embed_dim must be a whole number of at least 1, got ",
        ),
        (
            lambda: SparseFeature("a", min_count=0),
            "min_count must be a whole number of at least 1, got ",
        ),
        (lambda: SparseFeature(""), "a feature's name must be the name of a column"),
        (
            lambda: DenseFeature("a", encoding="stndard"),
            "unknown encoding 'stndard'; did you mean 'standard'",
        ),
        (lambda: DenseFeature("a", bins=0), "bins must be a whole number of at least 1, got "),
        (
            lambda: schema([Task("a")], [SparseFeature("x", shared_with="itm"), *ITEM]),
            "shares the table of 'itm', which is no feature of ids; did you mean 'item'",
        ),
        (
            lambda: schema(
                [Task("a")],
                [
                    *ITEM,
                    SparseFeature("x", shared_with="item"),
                    SparseFeature("y", shared_with="x"),
                ],
            ),
            "which has none of its own: share with 'item'",
        ),
        (
            lambda: schema([Task("a")], [*ITEM, SparseFeature("x", 7, 3, shared_with="item")]),
            "its embed_dim is 3 and the owner's is None",
        ),
        (
            lambda: schema(
                [Task("a")],
                [
                    SparseFeature("item", min_count=5),
                    SparseFeature("x", min_count=3, shared_with="item"),
                ],
            ),
            "its min_count is 3 and the owner's is 5: leave it out",
        ),
        (lambda: SparseFeature("a", 9, min_count=2), "min_count 2 counts the ids of a fitted voca"),
        (lambda: schema([Task("a")], [DenseFeature("sparse")]), "a feature cannot be named 'spar"),
        (lambda: schema([Task("a")], [SparseFeature("dense")]), "a feature cannot be named 'dens"),
        (lambda: schema([Task("a")], [DenseFeature("sequence")]), "a feature cannot be named 'seq"),
        (lambda: SequenceFeature(""), "a feature's name must be the name of a column"),
        (
            lambda: SequenceFeature("a", pooling="man"),
            "feature 'a': unknown pooling 'man'; did you mean 'mean'",
        ),
        (lambda: SequenceFeature("a", 0), "vocab_size must be a whole number of at least 1, got "),
        (
            lambda: SequenceFeature("a", weights=3),
            "feature 'a': weights must be the name of a column, got 3",
        ),
        (
            lambda: SequenceFeature("a", max_length=0),
            "feature 'a': max_length must be a whole number of at least 1, got 0",
        ),
        (
            lambda: schema([Task("a")], [*ITEM, SequenceFeature("x", weights="item")]),
            "feature 'x': its weights 'item' are a feature too",
        ),
        (
            lambda: schema(
                [Task("a")],
                [SequenceFeature("x", weights="w"), SequenceFeature("y", weights="w")],
            ),
            "features 'x' and 'y' have the weights 'w': rename a copy of the column",
        ),
        (
            lambda: schema([Task("w")], [SequenceFeature("x", weights="w")]),
            "column 'w' is both a feature and the label of task 'w'",
        ),
        (
            lambda: SequenceFeature("a", padding_idx="0"),
            "padding_idx must be a whole number, got '0'",
        ),
        (lambda: SequenceFeature("a", 9, min_count=2), "min_count 2 counts the ids of a fitted v"),
        (
            lambda: SparseFeature("a", hash=0),
            "hash must be a whole number of at least 1 and .*, got 0",
        ),
        (lambda: SparseFeature("a", hash=1.5), "hash must be a whole number .*, got 1.5"),
        (lambda: SparseFeature("a", hash=2**31), "hash must be .* at most 2,147,483,646, got "),
        (
            lambda: SparseFeature("a", 9, hash=5),
            "vocab_size 9 makes the id itself the row, and hash 5 its hash: leave one",
        ),
        (
            lambda: SequenceFeature("a", hash=5, min_count=2),
            "min_count 2 counts the ids of a fitted vocabulary, and hash fits none: leave one",
        ),
        (
            lambda: schema([Task("a")], [*ITEM, SequenceFeature("x", hash=9, shared_with="item")]),
            "its hash is 9 and the owner's is None: leave it out",
        ),
        (
            lambda: schema([Task("a")], [SequenceFeature("x")], keys=Keys(user="x")),
            "column 'x' is both a sequence and a key, and a key has one value per ",
        ),
        (
            lambda: schema([Task("a")], [DenseFeature("true_p_a")]),
            "feature 'true_p_a' is the known truth of 'p_a'",
        ),
        (
            lambda: schema([Task("a")], keys=Keys(weight="item")),
            "'item' is both a feature and the sample weight",
        ),
        (lambda: Task("a", weight="2"), "weight must be a number above 0, got '2'"),
        (lambda: Task("a", weight=True), "weight must be a number above 0, got True"),
        (
            lambda: Task("a", positive_weight=None),
            "positive_weight must be a number above 0, got None",
        ),
        (lambda: Task("a", kind=3), "kind must be a name or a LabelKind, got 3"),
        (
            lambda: Task("a", kind=["binary"]),
            r"kind must be a name or a LabelKind, got \['binary'\]",
        ),
        (lambda: Task("a", space=3), "space must be a name, got 3"),
        (lambda: Task("a", space=("all", 3)), "space must be a name, got 3"),
        (lambda: Task("a", given=["b"]), "given must be a name, got .'b'."),
        (lambda: Task("a", label=3), "label must be a name, got 3"),
        (lambda: Task("a", hold_ancestors=1), "hold_ancestors must be true or false, got 1"),
        (
            lambda: Task("a", hold_ancestors=True),
            "task 'a': hold_ancestors needs an event that is given another one; leave it out",
        ),
        (
            lambda: Task("a", kind="regression", given="b", hold_ancestors=True),
            "task 'a': hold_ancestors needs an event that is given another one; leave it out",
        ),
        (
            lambda: Task("a", given="b", space=["b"], hold_ancestors=True),
            "in space 'b' nothing does: leave it out, or write space = 'all'",
        ),
        (lambda: SparseFeature("a", min_count="a"), "min_count must be a whole number .*, got 'a'"),
        (
            lambda: SparseFeature("a", min_count=None),
            "min_count must be a whole number .*, got None",
        ),
        (
            lambda: SparseFeature("a", vocab_size=2.5),
            "vocab_size must be a whole number .*, got 2.5",
        ),
        (
            lambda: SparseFeature("a", embed_dim=True),
            "embed_dim must be a whole number .*, got True",
        ),
        (
            lambda: SparseFeature("a", shared_with=3),
            "shared_with must be the name of a feature, got 3",
        ),
        (lambda: DenseFeature("a", bins=2.5), "bins must be a whole number .*, got 2.5"),
        (lambda: DenseFeature("a", encoding=3), "unknown encoding 3 "),
        (lambda: Keys(user=3), "keys: user must be a column name, got 3"),
        (lambda: schema([Task("a")], ["item"]), "features must be a list of features such as S"),
        (
            lambda: schema([Task("a")], ITEM[0]),
            "features must be a list of features such as S",
        ),
        (
            lambda: schema([Task("a")], ["item"]),
            r"got 'item' in it; write SparseFeature\('item'\)$",
        ),
        (
            lambda: schema([Task("a")], ITEM[0]),
            r"got SparseFeature\(name='item'.*; put it in a",
        ),
        (lambda: schema([Task("a")], "item"), r"write features=\[SparseFeature\('item'\)\]$"),
        (lambda: schema(["a"]), r"tasks must be .* such as Task\(…\), got 'a' in it; write T"),
        (lambda: schema("click"), r"got 'click'; write tasks=\[Task\('click'\)\]$"),
        (
            lambda: schema(Task("a")),
            r"tasks must be a list of tasks .*, got Task\(.*; put it in a list",
        ),
        (lambda: schema(None), "tasks must be a list of tasks .*, got None"),
        (lambda: Task("a", given=["x"]), r"given must be a name, got \['x'\]"),
        (
            lambda: SparseFeature("a", vocab_size="x"),
            "vocab_size must be a whole number .*, got 'x'",
        ),
        (
            lambda: Schema.from_json("{"),
            r"a schema must be the JSON that to_json wrote, got '\{' \(",
        ),
        (lambda: Schema.from_json(None), "a schema must be the JSON that to_json wrote, got None"),
    ],
)
def test_contradictions_are_refused_by_name(make, message):
    with pytest.raises(SchemaError, match=message):
        make()


def test_a_numpy_vocabulary_size_is_taken():
    feature = SparseFeature("a", np.int64(7))
    assert type(feature.vocab_size) is int
    assert feature == SparseFeature("a", 7)


def test_numpy_numbers_become_plain_ones():
    feature, task = DenseFeature("a", bins=np.int32(4)), Task("a", weight=np.float32(0.5))
    assert (type(feature.bins), type(task.weight)) == (int, float)


def test_a_sharer_may_repeat_what_its_owner_says():
    owner = SparseFeature("item", min_count=5)
    schema([Task("a")], [owner, SparseFeature("x", min_count=5, shared_with="item")])
    schema([Task("a")], [owner, SparseFeature("x", shared_with="item")])


def test_a_sparse_feature_may_share_the_table_of_a_sequence():
    owner = SequenceFeature("seen", hash=9)
    built = schema([Task("a")], [owner, SparseFeature("item", shared_with="seen", hash=9)])
    assert [feature.table for feature in built.features] == ["seen", "seen"]


def test_the_classic_signature_of_a_sequence():
    feature = SequenceFeature("seen", np.int64(9), 4, pooling="last", padding_idx=np.int64(-1))
    assert (feature.vocab_size, feature.embed_dim, feature.padding_idx) == (9, 4, -1)
    assert type(feature.padding_idx) is int


def test_sparse_features_come_first_then_sequences_each_kind_in_its_order():
    mixed = [
        DenseFeature("d", "log"),
        SequenceFeature("s"),
        SparseFeature("b"),
        DenseFeature("c", "bins"),
        SparseFeature("a"),
    ]
    built = schema([Task("click")], mixed)
    assert [feature.name for feature in built.features] == ["b", "a", "s", "d", "c"]
    assert [feature.name for feature in built.fields] == ["b", "a", "c"]
    assert [feature.name for feature in built.bags] == ["s"]
    assert [feature.name for feature in built.lookups] == ["b", "a", "c", "s"]


@pytest.mark.parametrize(("default", "space"), [("all", "all"), ("parent", "cart")])
def test_a_space_that_is_left_out_stays_so_and_has_a_default(default, space, monkeypatch):
    monkeypatch.setattr(polyrank.tasks, "DEFAULT_SPACE", default)
    built = schema(
        [
            Task("click"),
            Task("cart", given="click", space=["click"]),
            Task("buy", given="cart"),
            Task("held", given="cart", hold_ancestors=True),
            Task("s", kind="regression", given="buy"),
        ]
    )
    assert [task.space for task in built.tasks] == [None, "click", None, None, None]
    spaces = [("all",), ("click",), (space,), ("all",), ("buy",)]
    assert [task.spaces for task in built.tasks] == spaces
    assert [task.resolved().spaces for task in built.tasks] == spaces
    assert [task.label for task in built.tasks] == ["click", "cart", "buy", "held", "s"]
    rows = [term.population.space for term in built.objective]
    assert rows == [name for (name,) in spaces]
    of_all = [task.resolved("all").space for task in built.tasks]
    assert of_all == ["all", "click", "all", "all", "buy"]


def test_keys_may_be_a_mapping_and_a_key_may_be_a_feature():
    built = schema([Task("click")], keys={"user": "item"})
    assert built.keys == Keys(user="item")
    assert built.keys.columns == ("item",)
    with pytest.raises(ConfigError, match="keys: unknown key 'usr'; did you mean 'user'"):
        schema([Task("click")], keys={"usr": "item"})


names = st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z").filter(
    lambda name: name != "all" and not name.startswith("p_") and "_given_" not in name
)


@st.composite
def schemas(draw):
    tasks = []
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        binary = [task.name for task in tasks if task.kind == "binary"]
        parent = draw(st.none() | st.sampled_from(binary)) if binary else None
        kind = draw(st.sampled_from(["binary", "regression"]))
        tasks.append(
            Task(
                name,
                label=f"label of {name}",
                kind=kind,
                given=parent,
                weight=draw(st.floats(0.1, 10)),
                space=("all", parent) if parent and kind == "binary" else None,
                hold_ancestors=bool(parent) and kind == "binary" and draw(st.booleans()),
            )
        )
    features = [
        SparseFeature("the ids", min_count=draw(st.integers(1, 9))),
        DenseFeature("a number", encoding=draw(st.sampled_from(["bins", "log", "none"]))),
        SparseFeature("a sharer", shared_with="the ids"),
        SparseFeature("hashed", hash=draw(st.integers(1, 2**31 - 2))),
        SequenceFeature(
            "a history",
            shared_with="the ids",
            pooling=draw(st.sampled_from(["mean", "sum", "last"])),
            padding_idx=draw(st.none() | st.integers(-3, 3)),
        ),
    ]
    return Schema(features, tasks, Keys(user="the ids", time="the time"))


@given(schemas())
def test_the_schema_reads_back_from_json(built):
    assert Schema.from_json(built.to_json()) == built


def test_unknown_keys_of_the_json_are_refused():
    with pytest.raises(ConfigError, match="feature: unknown kind 'spars'; did you mean 'sparse'"):
        Schema.from_table({"features": [{"kind": "spars", "name": "a"}], "tasks": []})
    with pytest.raises(ConfigError, match="schema: unknown key 'feature'; did you mean 'features'"):
        Schema.from_table({"feature": []})
    with pytest.raises(ConfigError, match="schema: expected a table, got 3"):
        Schema.from_json("3")
    with pytest.raises(ConfigError, match="schema: features must be a list of tables, got 3"):
        Schema.from_json('{"features": 3}')
    with pytest.raises(ConfigError, match="feature: expected a table with a kind, got 3"):
        Schema.from_json('{"features": [3]}')
    with pytest.raises(ConfigError, match="keys: expected a table, got 3"):
        Schema.from_json('{"keys": 3}')


def test_numpy_fields_are_written_as_plain_json():
    built = schema(
        [Task("click", weight=np.float32(2), positive_weight=np.int64(3))],
        [
            SparseFeature("item", np.int64(9), np.int32(4)),
            SparseFeature("shop", min_count=np.int64(5)),
            DenseFeature("price", bins=np.int16(4), embed_dim=np.uint8(2)),
        ],
    )
    assert Schema.from_json(built.to_json()) == built
