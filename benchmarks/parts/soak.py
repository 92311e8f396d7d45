"""A long load of valid and faulty requests, and the server's memory over time."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import dataclass
from typing import Any

from parts.load import Found, Sent, started
from parts.served import Request
from parts.server import Server

CONCURRENCY = 16
MOST_REQUESTS = 10_000_000
WARM_UP_SECONDS = 60  # allocators and caches fill meanwhile
PATH = "/v1/score"
WEIGHTS = {"ranking": 8, "records": 4, "columns": 4, "unseen ids": 2, "nulls": 1}  # faults: 1 each


@dataclass(frozen=True)
class Soaked:
    """The results of a soak.

    Args:
        found: the results of the load.
        memory_mib: the server's resident memory, each second.
        warm_up: seconds left out of the memory figures.
    """

    found: Found
    memory_mib: list[float]
    warm_up: int

    @property
    def spread(self) -> float:
        """Highest − lowest memory after the warm-up, as a share of the first figure after it."""
        after = self.memory_mib[self.warm_up :]
        return (max(after) - min(after)) / after[0]


def mixed(requests: list[Request], seed: int) -> list[Sent]:
    """Return requests of all kinds, shuffled, each with its expected status."""
    found = []
    for at, each in enumerate(requests):
        first, *others = each.candidates
        foreign = {"205": at + 10**9, "206": -1, "207": "no number", "101": 2**40}
        rows = each.rows
        kinds: dict[str, Any] = {
            "ranking": {"context": each.context, "candidates": each.candidates, "top_k": 10},
            "records": {"rows": rows},
            "columns": {"rows": each.columns},
            "unseen ids": {"rows": [{**row, **foreign} for row in rows]},
            "nulls": {"rows": [{**row, "205": None, "D508": None} for row in rows]},
        }
        for kind, body in kinds.items():
            sent = Sent(kind, PATH, json.dumps(body).encode())
            found += [sent] * WEIGHTS[kind]
        whole = json.dumps(kinds["ranking"]).encode()
        lacking = {name: value for name, value in first.items() if name != "205"}
        faults = {
            "cut off": (whole[: len(whole) // 2], 400),
            "not UTF-8": (b'{"rows": [{"205": "\xff"}]}', 400),
            "missing column": (_ranking(each, [*others, lacking]), 422),
            "wrong type": (_ranking(each, [*others, {**first, "D508": [1]}]), 422),
            "no rows": (b'{"rows": []}', 422),
        }
        found += [Sent(kind, PATH, body, status) for kind, (body, status) in faults.items()]
    random.Random(seed).shuffle(found)
    return found


def soak(server: Server, sent: list[Sent], seconds: int) -> Soaked:
    """Load a server and read its memory each second."""
    memory = [server.memory_mib]
    limits = {"concurrency": CONCURRENCY, "seconds": seconds, "most": MOST_REQUESTS}
    with started(server.port, sent, **limits) as child:
        for _ in range(seconds):
            try:
                child.wait(1)
            except subprocess.TimeoutExpired:
                memory.append(server.memory_mib)
            else:
                break
        output, _ = child.communicate(timeout=60)
    if child.returncode:
        raise SystemExit("the load failed")
    return Soaked(Found(**json.loads(output)), memory, min(WARM_UP_SECONDS, seconds // 5))


def _ranking(request: Request, candidates: list[dict[str, Any]]) -> bytes:
    return json.dumps({"context": request.context, "candidates": candidates}).encode()
