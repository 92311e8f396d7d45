"""A load whose every answer is checked, to the byte, against the bundle that it says it is of.

In its own process, over loopback, by the connections of `parts.load` (Linux only):

    python -m parts.marked TASK.json

TASK.json has `port`, `concurrency`, the requests `sent` and, for each version of a bundle, the body
that each of them must get. It goes on until its standard input ends, and prints what it found.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import perf_counter

from parts.load import BENCHMARKS, PATIENCE_SECONDS, Connection, Sent

VERSION = re.compile(rb"\r\nx-model-version: *([0-9a-f]+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Checked:
    """What came of a load.

    Args:
        answers: by the version of the bundle.
        wrong: answers that are not, to the byte, those of the version that they name.
        lost: connections that ended without an answer to a request.
        statuses: those that are not 200.
        p50_ms: median latency.
        p99_ms: 99th percentile.
        longest_ms: the slowest.
    """

    answers: dict[str, int]
    wrong: int
    lost: int
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    longest_ms: float


@contextmanager
def checking(
    folder: Path, port: int, sent: Sequence[Sent], expected: Mapping[str, Sequence[bytes]],
    concurrency: int,
) -> Generator[subprocess.Popen[str]]:  # fmt: skip
    """Start a load; `ended` ends it."""
    task = {
        "port": port, "concurrency": concurrency,
        "sent": [each.to_bytes().decode("latin-1") for each in sent],
        "expected": {key: [body.decode() for body in each] for key, each in expected.items()},
    }  # fmt: skip
    path = folder / "task.json"
    path.write_text(json.dumps(task), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "parts.marked", str(path)], cwd=BENCHMARKS, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def ended(child: subprocess.Popen[str]) -> Checked:
    """End a load and return what it found."""
    output, _ = child.communicate(timeout=2 * PATIENCE_SECONDS)  # closes its standard input
    if child.returncode:
        raise SystemExit("the load failed")
    return Checked(**json.loads(output))


def run(port: int, requests: Sequence[bytes], expected: Mapping[str, Sequence[bytes]],
        concurrency: int) -> Checked:  # fmt: skip
    """Send the requests in turn until standard input ends, and check each answer."""
    order = cycle(range(len(requests)))
    answers: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    wrong = lost = 0
    poll = select.epoll()
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    open_: dict[int, Connection] = {}

    def watch(connection: Connection) -> None:
        writes = select.EPOLLOUT if connection.unsent else 0
        poll.modify(connection.socket.fileno(), select.EPOLLIN | writes)

    def begin(connection: Connection, at: int) -> None:
        connection.send(at, requests[at])
        watch(connection)

    def add(connection: Connection) -> None:
        poll.register(connection.socket.fileno(), select.EPOLLIN)
        open_[connection.socket.fileno()] = connection

    def renew(connection: Connection) -> None:
        del open_[connection.socket.fileno()]
        connection.reopen()
        add(connection)

    for _ in range(concurrency):
        add(connection := Connection(port))
        begin(connection, next(order))
    busy, ending = concurrency, False
    while busy:
        events = poll.poll(PATIENCE_SECONDS)
        if not events:
            raise SystemExit(f"no answer in {PATIENCE_SECONDS} s")
        for descriptor, event in events:
            if descriptor == 0:
                ending = True
                poll.unregister(0)
                continue
            connection = open_[descriptor]
            if event & select.EPOLLOUT and not event & select.EPOLLIN:
                connection.go_on()
                watch(connection)
                continue
            closes = False
            try:
                if not connection.receive():
                    continue
                latencies.append(perf_counter() - connection.begun)
                closes = connection.closes
                if connection.status == 200:
                    end = connection.received.find(b"\r\n\r\n")
                    found = VERSION.search(connection.received, 0, end + 2)
                    version = "none" if found is None else found[1].decode()
                    answers[version] += 1
                    body = bytes(connection.received[end + 4 : connection.due])
                    known = expected.get(version)
                    wrong += known is None or known[connection.at] != body
                else:
                    statuses[str(connection.status)] += 1
            except ConnectionError:
                lost, closes = lost + 1, True
            if closes:
                renew(connection)
            if ending:
                busy -= 1
            else:
                begin(connection, next(order))
    ordered = sorted(latencies)
    p50, p99, longest = (
        ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3 for share in (0.5, 0.99, 1)
    )
    return Checked(dict(answers), wrong, lost, dict(statuses), p50, p99, longest)


def main() -> None:
    """Run a load and print its results."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    expected = {key: [each.encode() for each in body] for key, body in task["expected"].items()}
    requests = [each.encode("latin-1") for each in task["sent"]]
    print(json.dumps(asdict(run(task["port"], requests, expected, task["concurrency"]))))


if __name__ == "__main__":
    main()
