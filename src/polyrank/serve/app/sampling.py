"""Which requests are kept as rows, which of their columns, and how much disk they may take."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from polyrank import spec
from polyrank.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A share of the scored requests as rows in Parquet files, for `polyrank monitor`.

    Args:
        folder: of the files.
        columns: their columns. Nothing else of a request or of its answer is ever written.
        share: of requests, above 0.
        most_mb: all files of the folder together, in MiB; the oldest ones leave.
        file_rows: a file is written once so many rows wait for it,
        file_mb: or so many MiB in memory,
        file_s: or once its first row has waited so many seconds.

    Raises:
        ConfigError: no columns, a column twice, or a number out of its range.

    Examples:
        >>> sampling = Sampling(folder="rows", columns=("item", "p_click"), share=0.1)
        >>> sum(sampling.chosen(f"request {number}") for number in range(10_000))
        1012
    """

    folder: str
    columns: tuple[str, ...]
    share: float = 0.01
    most_mb: float = 1024.0
    file_rows: int = 10_000
    file_mb: float = 8.0
    file_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.columns:
            raise ConfigError(
                "no column is logged unless it is named: give --log-column for each one to keep"
            )
        if len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise ConfigError(f"column {twice!r} to log is named twice: leave one out")
        spec.number("log share", self.share, above=0, most=1)
        spec.whole("log file rows", self.file_rows)
        for name in ("file_mb", "file_s"):
            spec.number(f"log {name}", getattr(self, name), above=0)
        spec.number("log most_mb", self.most_mb, above=0)

    def chosen(self, request_id: str) -> bool:
        """Whether a request is kept.

        The hash of its id decides: the same in every process, and a share that is raised keeps
        what it had.
        """
        hashed = blake2b(request_id.encode(), digest_size=8, person=b"polyrank rows").digest()
        return int.from_bytes(hashed, "little") / 2**64 < self.share
