"""Every trunk and space leaves torch and answers as it did, in both files."""

from dataclasses import replace

import numpy as np
import onnx
import polars as pl
import pytest

import polyrank as pr
from polyrank.calibration import Isotonic, Platt
from polyrank.calibration.fitting import Calibrator
from polyrank.models.model import TRUNKS
from polyrank.serve.engine import Session
from polyrank.serve.export.parity import ROUNDINGS, Exact
from polyrank.serve.export.write import export
from polyrank.serve.inputs import RAW_FILE, ROWS_FILE, Inputs

SIZE = 257
FEATURES = [
    # names that a graph of ours or of the exporter could have
    pr.SparseFeature("101"),
    pr.SparseFeature("a/b", embed_dim=3, min_count=2),
    pr.SparseFeature("年龄"),
    pr.SequenceFeature("linear", shared_with="101", padding_idx=0),
    pr.SparseFeature("val_3", vocab_size=6),
    pr.SparseFeature("input_0", shared_with="val_3"),
    pr.SequenceFeature(".tags", embed_dim=3, pooling="last"),
    pr.SequenceFeature("cat", embed_dim=5, pooling="sum", padding_idx=3),
    pr.SequenceFeature("slots", vocab_size=5, padding_idx=4),
    pr.DenseFeature("standard", encoding="standard"),
    pr.DenseFeature("with missing", encoding="standard"),
    pr.DenseFeature("log", encoding="log"),
    pr.DenseFeature("bins", encoding="bins", bins=7),
    pr.DenseFeature("many bins", encoding="bins", bins=200, embed_dim=2),
    pr.DenseFeature("pieces", encoding="piecewise_linear", bins=5),
    pr.DenseFeature("plain", encoding="none"),
    pr.DenseFeature("constant", encoding="standard"),
    pr.DenseFeature("constant pieces", encoding="piecewise_linear"),
    pr.DenseFeature("constant bins"),
    pr.DenseFeature("tiny", encoding="standard"),
    pr.DenseFeature("tiny log", encoding="log"),
    pr.DenseFeature("tiny pieces", encoding="piecewise_linear", bins=4),
    pr.DenseFeature("tiny bins", bins=4),
    pr.DenseFeature("few values", encoding="values", min_count=2),
    pr.DenseFeature(
        "three",
        encoding=["piecewise_linear", "bins", "values"],
        bins="auto",
        embed_dim=3,
        min_count=3,
    ),
    pr.VectorFeature("vector 4"),
    pr.VectorFeature("main parts", components=2),
]
# All of them, ids alone, numbers alone: the space is learnt on, and the graph knows nothing of it.
SOME = {"all": FEATURES, "click": FEATURES[4:9], ("all", "click"): FEATURES[10:13]}
MAPS = {"click": Platt(1.3, -0.2), "buy": Isotonic((-2.0, 0.0, 1.5), (-3.0, 0.5, 1.0))}


LONG = 200  # elements of a list far longer than any of training


def drawn(generator, size, unseen=False):
    """Rows of all kinds; with `unseen`, ids and numbers that training never saw."""
    high = 60 if unseen else 30

    def lists(values, longest=6):
        lengths = generator.integers(0, longest, size)
        lengths[::5] = 0
        return [None if n == 0 and i % 2 else generator.choice(values, n).tolist()
                for i, n in enumerate(lengths)]  # fmt: skip

    def missing(values):
        return np.where(generator.random(size) < 0.2, np.nan, values)

    def vectors(width):
        found = generator.normal(3, 2, (size, width)).tolist()
        return [None if i % 7 == 3 else each for i, each in enumerate(found)]

    letters = "abcdefzyx" if unseen else "abcdef"
    spread = 5.0 if unseen else 1.0
    frame = pl.DataFrame(
        {
            "101": generator.integers(0, high, size),
            "a/b": pl.Series(
                generator.choice([*letters, "", "北京", None], size).tolist(),
                dtype=pl.String,
            ),
            "年龄": generator.choice([0.5, 1.5, -0.0, 2.0**60, 0.25 if unseen else 7.5], size),
            "val_3": generator.integers(-1, 8, size),
            "input_0": generator.integers(-1, 8, size),
            "linear": lists(np.arange(high)),
            ".tags": lists(np.array(["x", "y", "z", "w" if unseen else "x"])),
            "cat": lists(np.array([1.5, 2.5, 3.0, 9.5 if unseen else 1.5])),
            "slots": lists(np.arange(-1, 7)),
            "standard": generator.normal(size=size) * spread,
            "with missing": missing(generator.normal(5, 2, size)),
            "log": missing(generator.lognormal(size=size) * spread),
            "bins": missing(generator.lognormal(size=size) * spread),
            "many bins": generator.normal(size=size),
            "pieces": missing(generator.normal(size=size)),
            "plain": missing(generator.random(size)),
            "few values": missing(generator.integers(-5, 5, size) / 2),
            "three": missing(np.round(generator.lognormal(size=size) * spread, 1)),
            "vector 4": vectors(4),
            "main parts": pl.Series(vectors(3), dtype=pl.Array(pl.Float64, 3)),
            "constant": np.full(size, 3.0),
            "constant pieces": np.full(size, -3.0),
            "constant bins": np.full(size, 3.0),
            **{f"tiny{kind}": generator.normal(size=size) * 1e-9
               for kind in ("", " log", " pieces", " bins")},
        }
    )  # fmt: skip
    return frame.with_columns(pl.col("101", "val_3").replace(3, None))


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(3)
    click = generator.integers(0, 2, SIZE)
    buy, share = click * generator.integers(0, 2, SIZE), click * generator.integers(0, 2, SIZE)
    labels = {
        "click": click,
        "buy": buy,
        "share": share,
        "again": buy * generator.integers(0, 2, SIZE),
        "spend": np.where(buy == 1, generator.normal(300, 50, SIZE), np.nan),
        "dwell": generator.normal(10, 4, SIZE),
    }
    return drawn(generator, SIZE).with_columns(pl.DataFrame(labels))


def tasks(space):
    """A chain of three, two children of one event, and a regression of each kind."""
    found = [
        pr.Task("again", given="buy", space=space),
        pr.Task("click"),
        pr.Task("buy", given="click", space=space),
        pr.Task("share", given="click", space=space),
        pr.Task("spend", kind="regression", given="buy"),
        pr.Task("dwell", kind="regression"),
    ]
    return found if space == "all" else found[1:3]


def fitted(kind, space, rows, **model):
    spec = pr.Model(trunk=TRUNKS[kind](), tower=[5], embed_dim=4, **model)
    bundle = pr.fit(
        pr.Schema(SOME[space], tasks(space)), spec, train=rows, epochs=1, batch_size=64, seed=5
    )
    maps = {task: Calibrator(found, 0, 0, {}) for task, found in MAPS.items()}
    return replace(bundle, calibrators=maps)


def frames(rows):
    """Rows of training, others of every size, and what a log of production holds besides."""
    generator = np.random.default_rng(11)
    features = [feature.name for feature in FEATURES]
    dtypes = {name: rows[name].dtype for name in features}
    seen = rows.select(features)
    yield "seen", seen
    for size in (1, 2, 7, 257):
        yield f"{size} unseen", drawn(generator, size, unseen=True)
    yield "nulls", pl.DataFrame({name: [None] * 3 for name in features}, schema=dtypes)
    sequences = [each.name for each in FEATURES if isinstance(each, pr.SequenceFeature)]
    yield "empty lists", seen.head(4).with_columns(pl.lit([]).cast(dtypes[n]).alias(n)
                                                   for n in sequences)  # fmt: skip
    some = {name: rows[name].drop_nulls().explode(empty_as_null=False) for name in sequences}
    long = seen.head(2).with_columns(
        pl.Series(name, [each.sample(LONG, with_replacement=True, seed=1), None], dtypes[name])
        for name, each in some.items()
    )
    yield "long lists", long
    yield "other types", seen.with_columns(
        pl.col("101").cast(pl.String), pl.col("val_3").cast(pl.Float64),
        pl.col("linear").cast(pl.List(pl.String)), pl.col("standard").cast(pl.Float32),
    )  # fmt: skip


# What a space changes is the loss, which is not exported: one trunk has them all, and
# benchmarks/export_parity.py every trunk with every space.
EVERY = [
    *((kind, "all") for kind in TRUNKS),
    *(("mmoe", space) for space in SOME if space != "all"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "space"), EVERY)
def test_both_files_answer_as_the_bundle_does(kind, space, rows, tmp_path):
    norm = "batch" if space == "click" else "none"
    bundle = fitted(kind, space, rows, norm=norm)
    folder = tmp_path / "bundle"
    bundle.save(folder)
    found = export(bundle, folder, [rows], vocabulary=True)
    assert {name: each.rows for name, each in found.items()} == {ROWS_FILE: SIZE, RAW_FILE: SIZE}
    exact, inputs = Exact(bundle), Inputs(bundle.schema, bundle.vocab)
    sessions = {ROWS_FILE: Session(folder / ROWS_FILE), RAW_FILE: Session(folder / RAW_FILE)}
    for what, frame in frames(rows):
        table = bundle.encode(frame)
        logits = bundle.logits(table)
        expected, rounding = bundle.columns(table, logits), exact.rounding(table, logits)
        for name, session in sessions.items():
            columns = inputs.raw(frame) if name == RAW_FILE else inputs.encoded(frame)
            (feeds,) = columns.batches(10_000)
            answer = session.run(feeds)
            assert list(answer) == list(expected)
            for output, each in answer.items():
                assert (each.dtype, each.shape) == (np.float64, (frame.height,))
                off = rounding[output].max()
                assert off <= found[name].bars[output], (what, output)
                allowed = max(found[name].bars[output], ROUNDINGS * off)
                if what == "long lists":  # the graph adds one after the other, torch in pairs
                    allowed += LONG * 2.0**-24 * np.abs(expected[output]).max()
                assert np.abs(each - expected[output]).max() <= allowed, (what, name, output)
    onnx.checker.check_model(folder / ROWS_FILE, full_check=True)
