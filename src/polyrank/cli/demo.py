"""`polyrank demo`: the whole story, end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from polyrank.config import Data, Experiment
    from polyrank.datasets import Frames
    from polyrank.metrics.scorecard import Scorecard
    from polyrank.models.model import Model
    from polyrank.train.training import Training

FUNNEL_ROWS = 600_000
FUNNEL_SEED = 1
CENSUS_SEEDS = (1, 2, 3, 4, 5)
# Ma et al., KDD 2018, table 2 (best of 400 runs); LightGBM on the official test rows.
CENSUS_PUBLISHED = {
    "income @ all": {"MMoE paper": 0.9410, "LightGBM": 0.957},
    "never_married @ all": {"MMoE paper": 0.9926, "LightGBM": 0.995},
}
FUNNEL_NOTE = """

auc: area under the ROC curve; on the rows of a score its oracle is the true
probability's. |p − truth|: mean absolute error of the probability. pcoc: mean
prediction / mean label. `buy|click @ all` is P(buy | click) on all rows, clicked or
not: only a log with known truth can score it.
clicked-rows and esmm estimate the same P(buy | click, features); they differ in
finite samples, in either direction, and neither sees a hidden cause of both.
Where recommended, the defaults, is nearer, by auc and |p − truth|: main effects of ids with
few rows are estimated as shrunk Bayesian effects (wide rows); the network learns the rest."""
CENSUS_NOTE = """

Census-Income (KDD): 199,523 training rows; the 99,762 official test rows are halved
into validation, which chooses the epoch, and test, as in Ma et al., KDD 2018, whose
figures are the best of 400 runs. LightGBM, on the whole file, is the next to beat."""


@dataclass(frozen=True)
class Run:
    """One trained run of a demo."""

    name: str
    seed: int
    seconds: float
    folder: Path
    scorecard: Scorecard

    def to_json(self) -> dict[str, Any]:
        """Return plain tables."""
        shown = {"name": self.name, "seed": self.seed, "seconds": round(self.seconds, 1)}
        return {**shown, "run": str(self.folder), "scorecard": self.scorecard.to_json()}


def demo(story: Literal["funnel", "census"] = "funnel", /, *, json: bool = False) -> None:
    """Train and score a story end to end, into a new folder runs/demo-…, and report the last run.

    Args:
        story: `funnel` compares clicked-rows, ESMM, MMoE and the defaults on a generated log,
            offline; `census` trains MMoE on real data, fetched once.
        json: print the runs and their scorecards as JSON.
    """
    from polyrank.cli.report import write_page
    from polyrank.cli.show import print_json
    from polyrank.report import HOW_TO_INSTALL, installed

    folder = _new_folder(story)
    train, table = {"funnel": (_funnel, _funnel_table), "census": (_census, _census_table)}[story]
    runs = list(train(folder))
    page = write_page(runs[-1].folder)[0] if installed() else None
    if json:
        print_json({"runs": [run.to_json() for run in runs]})
        return
    print(table(runs))
    print(f"\nruns: {folder}")
    print(f"next: polyrank predict {runs[-1].folder} {folder}/data/test.parquet -o scored.parquet")
    if len({run.name for run in runs}) > 1:
        print(f"      polyrank compare {' '.join(str(run.folder) for run in runs)}")
    print(HOW_TO_INSTALL if page is None else f"report: {page}")


def _new_folder(story: str) -> Path:
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder, copy = Path("runs") / f"demo-{story}-{stamp}", 1
    while folder.exists():
        copy += 1
        folder = folder.with_name(f"demo-{story}-{stamp}-{copy}")
    return folder


def _funnel(folder: Path) -> Iterator[Run]:
    """The models of the papers, then the defaults of the day."""
    from polyrank import Experiment, Model, Training
    from polyrank.datasets import load

    *_, schema = log = load("synthetic", rows=FUNNEL_ROWS, seed=FUNNEL_SEED)
    plan = Experiment(schema=schema, data=_written(log, folder), seed=FUNNEL_SEED)
    runs = [*papers(), ("recommended", None, Model(), Training())]
    for name, space, model, training in runs:
        tasks = [replace(task, space=space) if task.given else task for task in schema.tasks]
        supervised = replace(schema, tasks=tasks)
        named = replace(plan, name=name, schema=supervised, model=model, training=training)
        yield _run(named, folder / name)


def papers() -> list[tuple[str, str, Model, Training]]:
    """Return name, space of `buy`, model and budget of the runs beside the recommended one.

    Every option is given, so that they stay what they are when a default moves. The first two
    differ in the space alone; the third in its trunk.
    """
    from polyrank import Adam, Constant, LazyAdam, MMoE, Model, Separate, Sum, Training

    separate = Model(
        trunk=Separate(norm="none", dropout=0.1, activation="relu"), interaction=False,
        tower=[16, 8], embed_dim=16, norm="none", dropout=0.1, field_dropout=0.0, wide=False,
        trees=False, stages=(), entire_space=False,
    )  # fmt: skip
    experts = MMoE(experts=4, hidden=[16], norm="none", dropout=0.1, activation="relu")
    betas, eps = (0.9, 0.999), 1e-8
    budget = Training(
        epochs=2, batch_size=4096, lr=3e-3,
        embeddings=LazyAdam(lr=3e-3, l2=1e-3, prior=0.0, decay=0.0, betas=betas, eps=eps),
        dense=Adam(lr=3e-3, weight_decay=0.0, betas=betas, eps=eps),
        balance=Sum(normalize=True), stop=None, schedule=Constant(), threads=1, device="cpu",
        unseen_rate=0.001, checkpoint=None, compile=False, tables="replicated",
    )  # fmt: skip
    return [
        ("clicked-rows", "click", separate, budget),
        ("esmm", "all", separate, budget),
        ("mmoe-entire", "all", replace(separate, trunk=experts, tower=[8]), budget),
    ]


def _census(folder: Path) -> Iterator[Run]:
    """MMoE with the settings that benchmarks/number_encodings.py found on validation rows."""
    from polyrank import DenseFeature, Experiment
    from polyrank.cli.data import download_bar
    from polyrank.datasets import load
    from polyrank.datasets.census import DENSE

    with download_bar("census") as progress:
        *_, schema = people = load("census", progress=progress)
    data = _written(people, folder)
    binned = [
        DenseFeature(each.name, encoding="bins", bins=128) if each.name in DENSE else each
        for each in schema.features
    ]
    schema = replace(schema, features=binned)
    model, budget = census_mixture()
    plan = Experiment(schema=schema, data=data, model=model, training=budget, name="mmoe")
    for seed in CENSUS_SEEDS:
        yield _run(replace(plan, seed=seed), folder / f"mmoe-{seed}")


def census_mixture() -> tuple[Model, Training]:
    """Return the model and the budget of census, every option given as in `papers`."""
    from polyrank import Cosine, MMoE

    *_, (_, _, model, budget) = papers()
    experts = MMoE(experts=4, hidden=[64], norm="batch", dropout=0.3, activation="relu")
    model = replace(model, trunk=experts, tower=[16], embed_dim=8, norm="batch", dropout=0.3)
    embeddings = replace(budget.embeddings, l2=1e-4)
    return model, replace(
        budget, epochs=8, batch_size=1024, schedule=Cosine(), embeddings=embeddings
    )


def _written(frames: Frames, folder: Path) -> Data:
    """Write the rows, so that a run's config.toml names what it learned from."""
    from polyrank.config import Data
    from polyrank.datasets.write import write

    write(frames, folder / "data", name="demo")
    data = Data(train="train.parquet", valid="valid.parquet", test="test.parquet")
    return data.absolute(folder / "data")


def _run(experiment: Experiment, folder: Path) -> Run:
    from polyrank.train.progress import progress_bar

    name, seed, started = experiment.name, experiment.seed, perf_counter()
    with progress_bar(f"{name} (seed {seed})") as observe:
        bundle = experiment.fit(out=folder, progress=observe)
    assert bundle.scorecard is not None
    return Run(name, seed, perf_counter() - started, folder, bundle.scorecard)


def _funnel_table(runs: list[Run]) -> str:
    from polyrank.text import aligned

    header = ["test rows", "figure", "oracle", *(run.name for run in runs)]
    lines = []
    for score in runs[0].scorecard.scores:
        cards = [run.scorecard[score.name] for run in runs]
        truths = [card.truth or {} for card in cards]
        lines.append(
            [score.name, "auc", f"{truths[0]['oracle_auc']:.4f}"]
            + [f"{card.value('auc'):.4f}" for card in cards]
        )
        lines.append(["", "|p − truth|", "0"] + [f"{truth['mae']:.5f}" for truth in truths])
        if score.rows is not None:
            lines.append(["", "pcoc", "1"] + [f"{card.value('pcoc'):.3f}" for card in cards])
    lines.append(["training", "seconds", ""] + [f"{run.seconds:.0f}" for run in runs])
    return aligned(header, lines, range(2, len(header))) + FUNNEL_NOTE


def _census_table(runs: list[Run]) -> str:
    from statistics import mean, stdev

    from polyrank.text import aligned

    names = list(CENSUS_PUBLISHED)
    header = ["test auc", *(f"seed {run.seed}" for run in runs), "mean", "sd"]
    header += list(CENSUS_PUBLISHED[names[0]])
    lines = []
    for name in names:
        values = [run.scorecard.value(name, "auc") for run in runs]
        values += [mean(values), stdev(values), *CENSUS_PUBLISHED[name].values()]
        lines.append([name, *(f"{value:.4f}" for value in values)])
    seconds = [f"{run.seconds:.0f}" for run in runs]
    lines.append(["seconds", *seconds, f"{mean(run.seconds for run in runs):.0f}", "", "", ""])
    return aligned(header, lines, range(1, len(header))) + CENSUS_NOTE
