"""Who waits to be scored: a bounded number, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from math import ceil

from polyrank.serve.app.limits import Limits
from polyrank.serve.app.refused import Refused
from polyrank.serve.app.scorer import Scored


class Queue:
    """A line of limited length: small bodies are answered at once, others by worker threads.

    The event loop stays free while a thread works, for health checks and for turning away what is
    too much. Only the event loop's thread may call it.

    Args:
        work: from a body to its answer.
        limits: of the line, the wait and the threads.
    """

    def __init__(self, work: Callable[[bytes], Scored], limits: Limits) -> None:
        self.length = 0  # requests that wait or run
        self._work, self._limits = work, limits
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="score")

    def check(self) -> None:
        """Turn one more request away where the line is full.

        Raises:
            Refused: 429.
        """
        if self.length >= self._limits.queue:
            raise Refused(
                429,
                f"{self.length} requests wait already, which is the most: try again",
                {"Retry-After": "1"},
            )

    async def run(self, body: bytes) -> Scored:
        """Return the answer to a body.

        Raises:
            Refused: 429 where the line is full, 503 where the answer takes too long, and what the
                work refuses.
        """
        self.check()
        if len(body) <= self._limits.at_once_kb * 1024:
            return await self._at_once(body)
        job = self._pool.submit(self._work, body)
        self.length += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            seconds = self._limits.timeout_s
            raise Refused(
                503,
                f"there was no answer within {seconds:g} s: try again later, with fewer rows",
                {"Retry-After": str(ceil(seconds))},
            ) from None
        finally:
            # A job that has begun cannot be stopped, and keeps its place until it ends.
            if job.done():
                self._leave(job)
            else:
                job.add_done_callback(lambda done: _tell(loop, self._leave, done))

    async def _at_once(self, body: bytes) -> Scored:
        self.length += 1
        try:
            await asyncio.sleep(0)  # whoever has arrived takes a place in the line, or is told
            return self._work(body)
        finally:
            self.length -= 1

    def _leave(self, job: Future[Scored]) -> None:
        self.length -= 1


def _tell(
    loop: asyncio.AbstractEventLoop, what: Callable[[Future[Scored]], None], job: Future[Scored]
) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process ends
        loop.call_soon_threadsafe(what, job)
