"""A load generator over loopback in its own process, on the machine that it measures.

It costs as little as possible: requests are bytes prepared in advance, one thread waits on all
connections by epoll (Linux only), a response is read to its length and never parsed, and only the
standard library is imported. A connection is kept alive and sends its next request once its
response is complete: a closed loop, so concurrency is the number of connections. It ends after a
number of requests or seconds, whichever comes first; outstanding responses are awaited and counted.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time

BENCHMARKS = Path(__file__).parents[1]
PATIENCE_SECONDS = 30  # without any answer
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Sent:
    """A request and its expected status.

    Args:
        kind: a name, for counting.
        path: of the URL.
        body: JSON, or what a careless client sends.
        status: the expected one.
    """

    kind: str
    path: str
    body: bytes
    status: int = 200

    def to_bytes(self) -> bytes:
        """Return the whole request."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@dataclass(frozen=True)
class Found:
    """The results of a load.

    Args:
        requests: the number answered.
        seconds: from the first request to the last answer.
        p50_ms: median latency, from before the first byte is sent until the last one has arrived.
        p99_ms: 99th percentile.
        longest_ms: the slowest.
        statuses: counts by "kind status".
        unexpected: the unexpected ones; a connection that ended early counts as "broken".
        client: the load's own time on a core, as a share of the seconds.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    statuses: dict[str, int]
    unexpected: dict[str, int]
    client: float


@contextmanager
def started(
    port: int, sent: Sequence[Sent], *, concurrency: int, seconds: float, most: int
) -> Generator[subprocess.Popen[str]]:
    """Start a load in its own process, which prints its results as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.json"
        table = [asdict(each) | {"body": each.body.decode("latin-1")} for each in sent]
        path.write_text(json.dumps(table), encoding="utf-8")
        numbers = (str(each) for each in (port, concurrency, seconds, most))
        command = [sys.executable, "-m", "parts.load", str(path), *numbers]
        with subprocess.Popen(command, cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True) as child:
            try:
                yield child
            finally:
                child.kill()


def measured(
    port: int, sent: Sequence[Sent], *, concurrency: int, seconds: float, most: int
) -> Found:
    """Return the results of a load."""
    limits = {"concurrency": concurrency, "seconds": seconds, "most": most}
    with started(port, sent, **limits) as child:
        output, _ = child.communicate(timeout=seconds + 2 * PATIENCE_SECONDS)
    if child.returncode:
        raise SystemExit(f"the load on port {port} failed")
    return Found(**json.loads(output))


class Connection:
    """A kept-alive connection, and the request in flight on it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.at = 0  # index of the request
        self.begun = 0.0
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.due = 0  # bytes of the answer, once its head is there
        self.socket = self._opened()

    def send(self, at: int, request: bytes) -> None:
        """Begin a request."""
        self.at, self.unsent, self.due = at, memoryview(request), 0
        self.received.clear()
        self.begun = perf_counter()
        self.go_on()

    def go_on(self) -> None:
        """Send as much as the connection accepts."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return
        except ConnectionError:  # what is read next tells
            self.unsent = memoryview(b"")

    def receive(self) -> bool:
        """Receive what has arrived; return whether the response is complete.

        Raises:
            ConnectionError: the other side closed it early.
        """
        try:
            some = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        if not some:
            raise ConnectionResetError
        self.received += some
        if not self.due and (end := self.received.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.received, 0, end + 2)
            if found is None:
                raise SystemExit(f"an answer without its length: {self.received[:end]!r}")
            self.due = end + 4 + int(found[1])
        return 0 < self.due <= len(self.received)

    @property
    def status(self) -> int:
        """The status of a complete response."""
        return int(self.received[9:12])

    @property
    def closes(self) -> bool:
        """Whether the server accepts no more requests on this connection."""
        return CLOSES.search(self.received, 0, self.received.find(b"\r\n\r\n") + 2) is not None

    def reopen(self) -> None:
        """Reconnect."""
        self.socket.close()
        self.socket = self._opened()

    def _opened(self) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        return opened


def run(port: int, sent: Sequence[Sent], concurrency: int, seconds: float, most: int) -> Found:
    """Send the requests in turn, over and over, and wait for their responses."""
    requests = [each.to_bytes() for each in sent]
    order = islice(cycle(range(len(sent))), most)
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    unexpected: Counter[str] = Counter()
    poll = select.epoll()
    open_: dict[int, Connection] = {}

    def begin(connection: Connection) -> bool:
        """Send the connection's next request, unless it is time to end."""
        at = next(order, None) if perf_counter() < deadline else None
        if at is not None:
            connection.send(at, requests[at])
            watch(connection)
        return at is not None

    def watch(connection: Connection) -> None:
        writes = select.EPOLLOUT if connection.unsent else 0
        poll.modify(connection.socket.fileno(), select.EPOLLIN | writes)

    def add(connection: Connection) -> None:
        poll.register(connection.socket.fileno(), select.EPOLLIN)
        open_[connection.socket.fileno()] = connection

    def renew(connection: Connection) -> None:
        del open_[connection.socket.fileno()]
        connection.reopen()  # closing takes it out of the poll
        add(connection)

    for _ in range(concurrency):
        add(Connection(port))
    gc.collect()
    gc.disable()
    started_at, processor = perf_counter(), process_time()
    deadline = started_at + seconds
    busy = sum([begin(each) for each in open_.values()])
    while busy:
        events = poll.poll(PATIENCE_SECONDS)
        if not events:
            raise SystemExit(f"no answer in {PATIENCE_SECONDS} s")
        for descriptor, event in events:
            connection = open_[descriptor]
            if event & select.EPOLLOUT and not event & select.EPOLLIN:
                connection.go_on()
                watch(connection)
                continue
            expected = sent[connection.at]
            try:
                if not connection.receive():
                    continue
                latencies.append(perf_counter() - connection.begun)
                status, closes = str(connection.status), connection.closes
            except ConnectionError:
                status, closes = "broken", True
            statuses[f"{expected.kind} {status}"] += 1
            if status != str(expected.status):
                unexpected[f"{expected.kind} {status}"] += 1
            if closes:
                renew(connection)
            busy -= not begin(connection)
    elapsed, processor = perf_counter() - started_at, process_time() - processor
    for connection in open_.values():
        connection.socket.close()
    ordered = sorted(latencies)
    p50, p99, longest = (
        ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3 for share in (0.5, 0.99, 1)
    )
    return Found(
        len(latencies), elapsed, p50, p99, longest,
        dict(statuses), dict(unexpected), processor / elapsed,
    )  # fmt: skip


def main() -> None:
    """Run a load and print its results."""
    path, port, concurrency, seconds, most = sys.argv[1:]
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    sent = [Sent(**{**each, "body": each["body"].encode("latin-1")}) for each in table]
    print(json.dumps(asdict(run(int(port), sent, int(concurrency), float(seconds), int(most)))))


if __name__ == "__main__":
    main()
