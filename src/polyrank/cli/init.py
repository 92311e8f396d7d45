"""`polyrank init LOG...`."""

from __future__ import annotations

from pathlib import Path


def init(
    *logs: str,
    out: Path = Path("experiment.toml"),
    label: tuple[str, ...] = (),
    force: bool = False,
) -> int:
    """Propose an experiment for a log, write it with the reason of every line, and audit the log.

    The exit code is 1 if the audit finds an error; the file is written all the same.

    Args:
        logs: CSV, TSV or Parquet: a file, a glob or a folder; or files whose names say train, valid
            and test.
        out: the TOML file.
        label: a 0/1 column that is a label, whatever its name says; may be repeated.
        force: replace the TOML file.
    """
    from polyrank.config import Experiment
    from polyrank.data.read import column_names, read
    from polyrank.errors import ConfigError
    from polyrank.files import replacing
    from polyrank.paths import absolute, local
    from polyrank.proposal.files import sources
    from polyrank.proposal.propose import infer

    if not logs:
        raise ConfigError("init needs a log: polyrank init LOG, such as log.csv")
    if local(out, "the experiment").exists() and not force:
        raise ConfigError(f"{out} exists: name another file with --out, or replace it with --force")
    paths = sources(logs)
    frames = [read(path) for path in paths.values()]
    common = set.intersection(*(set(column_names(frame)) for frame in frames))
    found = infer(frames[0], labels=label, among=sorted(common))
    named = {split: absolute(path) for split, path in paths.items()}
    text = found.to_toml(named, out.stem)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"read:    {found.rows:,} of {found.of:,} rows\n\n{found.schema}\n")
    audit = Experiment.load(out).audit()
    print(f"{audit}\n\nwrote:   {out}")
    print(f"next:    {'mend what is an error, then ' * audit.failed}polyrank train {out}")
    return 1 if audit.failed else 0
