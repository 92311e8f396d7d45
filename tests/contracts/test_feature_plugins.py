"""Kinds of feature from outside the package go the whole way of a bundle, each in a few lines."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch

import polyrank as pr
from polyrank.config import Experiment
from polyrank.errors import BundleError, ConfigError, ExportError
from polyrank.features.bags import Elements, flattened
from polyrank.features.dense import DenseEncoding, NumberCodec, NumberFeature
from polyrank.features.kind import Encoded, Slot
from polyrank.features.sparse import IdFeature
from polyrank.registry import register, unregister
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.export.features import FeatureGraph, Parts
from polyrank.serve.export.write import export

# ------------------------------------------------------------------ what a user's module would hold


@dataclass(frozen=True)
class Cyclic(NumberFeature):
    """A number on a circle, as its sine and cosine."""

    kind: ClassVar[str] = "cyclic"
    graph: ClassVar[str] = f"{__name__}:CyclicGraph"

    period: float = 1.0

    @property
    def slots(self):
        return (Slot(name=self.name, place="dense"),)

    def codec(self, tables, state):
        return CyclicCodec(self)


class CyclicCodec(NumberCodec):
    @property
    def columns(self):
        return {self.feature.name: 2}

    def place(self, values):
        angles = values * np.float32(2 * np.pi / self.feature.period)
        columns = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return {self.feature.name: np.nan_to_num(columns)}


class CyclicGraph(FeatureGraph):
    def forward(self, inputs):
        found = []
        for name, codec in self.codecs.items():
            angles = inputs[name] * np.float32(2 * np.pi / codec.feature.period)
            columns = torch.stack([angles.sin(), angles.cos()], dim=1)
            found.append(torch.where(columns.isnan(), 0.0, columns))
        return Parts(columns=found)


@dataclass(frozen=True)
class Words(IdFeature):
    """A text, whose words are pooled; the vocabulary, the graph and requests are those of ids."""

    kind: ClassVar[str] = "words"

    @property
    def slots(self):
        return (Slot(name=self.name, place="bags", table=self.table, unseen=True),)

    def values(self, column):
        words = flattened(column.cast(pl.String).str.split(" "))
        return Elements(words.ids, words.offsets, column.null_count())


@dataclass(frozen=True)
class Valued(NumberFeature):
    """A number by its bin and by its exact value: two tables, and no graph."""

    kind: ClassVar[str] = "valued"
    state: ClassVar[type] = DenseEncoding

    @property
    def slots(self):
        exact = f"{self.name}#exact"
        return (
            Slot(name=self.name, place="ids", table=self.name),
            Slot(name=exact, place="ids", table=exact, unseen=True),
        )

    @property
    def id_tables(self):
        return (f"{self.name}#exact",)

    def width(self, table):
        return 3 if table in self.id_tables else None

    def least_count(self, table):
        return 2

    def ids(self, column, table):
        return pl.Series(self.values(column))

    def fit(self, column):
        return DenseEncoding.fit("bins", self.values(column), bins=4)

    def codec(self, tables, state):
        return ValuedCodec(self, state, tables[f"{self.name}#exact"])


class ValuedCodec(NumberCodec):
    def __init__(self, feature, encoding, vocabulary):
        super().__init__(feature)
        self.encoding, self.vocabulary = encoding, vocabulary

    @property
    def rows(self):
        return {self.feature.name: self.encoding.rows}

    def read(self, column):
        values, _, _, nulls = super().read(column)
        unseen = self.vocabulary.encode(pl.Series(values))[1]
        return Encoded(values, len(values) - nulls, unseen, nulls)

    def read_values(self, values):
        return None

    def together(self, alike):
        return None

    def place(self, values):
        exact = self.vocabulary.encode(pl.Series(values))[0]
        return {self.feature.name: self.encoding.ids(values), f"{self.feature.name}#exact": exact}


# -------------------------------------------------------------------------------------------- tests

KINDS = {"cyclic": Cyclic, "words": Words, "valued": Valued}
EXAMPLES = {
    "cyclic": Cyclic("hour", period=24.0),
    "words": Words("title", min_count=2),
    "valued": Valued("price"),
}
FILE = """
[data]
train = "log.parquet"
valid = "log.parquet"
test = "log.parquet"
[features]
sparse = ["item"]
cyclic = ["hour"]
words = ["title"]
valued = ["price"]
[features.hour]
period = 24.0
[features.title]
min_count = 2
[[task]]
name = "click"
[model]
trunk = { kind = "shared_bottom" }
tower = [4]
embed_dim = 4
[train]
epochs = 1
batch_size = 64
"""


@pytest.fixture(autouse=True)
def registered():
    for kind, cls in KINDS.items():
        register("feature", kind, cls)
    yield
    for kind in KINDS:
        unregister("feature", kind)


@pytest.fixture(scope="module")
def log():
    generator = np.random.default_rng(3)
    size = 300
    words = generator.choice(["red", "blue", "shoe", "hat", "new"], (size, 2))
    return pl.DataFrame(
        {
            "item": generator.integers(0, 20, size),
            "hour": np.where(generator.random(size) < 0.1, np.nan, generator.integers(0, 24, size)),
            "title": [None if n % 50 == 0 else " ".join(row) for n, row in enumerate(words)],
            "price": generator.choice([0.99, 1.99, 4.5, 10.0, float("nan")], size),
            "click": generator.integers(0, 2, size),
        }
    )


def fitted(log, *kinds, **options):
    features = [pr.SparseFeature("item"), *(EXAMPLES[kind] for kind in kinds)]
    schema = pr.Schema(features, [pr.Task("click")])
    model = pr.Model(trunk=pr.SharedBottom(), tower=[4], embed_dim=4)
    return pr.fit(schema, model, train=log, valid=log, epochs=1, batch_size=64, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_bundle_predicts_as_it_did(kind, log, tmp_path):
    bundle = fitted(log, kind)
    bundle.save(tmp_path / "bundle")
    loaded = pr.load(tmp_path / "bundle")
    assert loaded.schema == bundle.schema
    assert loaded.predict(log).equals(bundle.predict(log))
    assert loaded.evaluate(log).scores
    assert loaded.segments(log).height


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cyclic", "words"])
def test_what_gives_a_graph_is_exported_and_served(kind, log, tmp_path):
    bundle = fitted(log, kind)
    bundle.save(tmp_path / "bundle")
    export(bundle, tmp_path / "bundle", [log], vocabulary=True)
    engine = pr.Engine(tmp_path / "bundle")
    expected = bundle.predict(log)["p_click"].to_numpy()
    np.testing.assert_allclose(engine.predict(log)["p_click"].to_numpy(), expected, atol=1e-6)
    lists = {name: log[name].to_list() for name in engine.inputs}
    found = engine.predict_columns(lists).outputs["p_click"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    example = {name: codec.example for name, codec in engine.codecs.items()}
    body = pl.DataFrame([example]).write_json().encode()
    assert Scorer(engine, 10)(b'{"rows": ' + body + b"}").rows == 1


def test_what_gives_none_is_refused_by_name(log, tmp_path):
    bundle = fitted(log, "valued")
    bundle.save(tmp_path / "bundle")
    with pytest.raises(ExportError, match="'price' is of the kind 'valued', which has no module"):
        export(bundle, tmp_path / "bundle", [log])


def test_one_feature_may_have_two_tables(log):
    bundle = fitted(log, "valued")
    assert bundle.vocab.rows["price"] == 5
    assert bundle.vocab.rows["price#exact"] == 6  # four values and null
    assert bundle.ranker.layout.slices["price#exact"] == slice(8, 11)
    assert bundle.ranker.named_weights()["embed.price#exact"].shape == (6, 3)
    table = bundle.encode(log.with_columns(price=pl.lit(0.99)))
    assert (table.columns()["price#exact"] > 0).all()
    assert bundle.encode(log.with_columns(price=pl.lit(7.0))).unseen["price"] == len(log)


def test_an_experiments_file_knows_the_kinds(log, tmp_path):
    log.write_parquet(tmp_path / "log.parquet")
    experiment = Experiment.from_text(FILE, folder=tmp_path)
    assert experiment.schema.features[1:] == (
        Cyclic("hour", period=24.0), Valued("price"), Words("title", min_count=2),
    )  # fmt: skip
    assert Experiment.from_text(experiment.to_toml()) == experiment
    run = tmp_path / "run"
    first = experiment.fit(out=run)
    again = experiment.fit(out=run, force=True)  # from the cache
    assert again.predict(log).equals(first.predict(log))


def test_without_its_plugin_a_bundle_is_refused_by_name(log, tmp_path):
    bundle = fitted(log, "cyclic")
    bundle.save(tmp_path / "bundle")
    unregister("feature", "cyclic")
    with pytest.raises(BundleError, match="unknown kind 'cyclic'"):
        pr.load(tmp_path / "bundle")
    with pytest.raises(
        ConfigError, match=r"unknown kind of feature 'cyclic' .*install that plugin"
    ):
        Experiment.from_text(FILE)
