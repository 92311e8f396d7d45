"""The next item made while this one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """Yield items in order; one thread makes the next while the caller uses this one.

    The thread ends with the generator, however that ends, and what an item raises is raised here.

    Example:
        >>> list(ahead(iter([1, 2, 3])))
        [1, 2, 3]
    """
    with ThreadPoolExecutor(1, thread_name_prefix="polyrank-prefetch") as pool:
        coming = pool.submit(_one, items)
        while item := coming.result():
            coming = pool.submit(_one, items)
            yield item[0]


def _one(items: Iterator[Item]) -> tuple[Item] | None:
    """Return the next item, or None at the end."""
    for item in items:
        return (item,)
    return None
