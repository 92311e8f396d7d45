"""New bundles for models that are being served, when told (SIGHUP) or when they are there."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from polyrank.errors import PolyrankError
from polyrank.serve.app.models import Model, Models
from polyrank.serve.app.telemetry import Telemetry

logger = logging.getLogger(__name__)

WATCH_S = 1.0  # between two looks at the disk; a look is a few calls of stat


class Reloader:
    """Loads bundles in a thread of its own, one at a time, while the event loop answers.

    Only the event loop's thread may call it.
    """

    def __init__(self, models: Models, telemetry: Telemetry) -> None:
        self._models, self._telemetry = models, telemetry
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def start(self, *, watch: bool) -> None:
        """Look for new bundles from now on, if told to."""
        if watch:
            self._begin(self._watch())

    def all(self) -> None:
        """Reload every model that was read from a folder; this returns at once."""
        self._begin(self.reload(each for each in self._models.values() if each.path is not None))

    async def reload(self, models: Iterable[Model]) -> None:
        """Reload some models, one after the other."""
        for model in models:
            async with self._turn:
                await self._reload(model)

    def stop(self) -> None:
        """Look no more; a bundle that is being read is not waited for."""
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            await self.reload([each for each in self._models.values() if each.changed])

    async def _reload(self, model: Model) -> None:
        start, before = perf_counter(), model.current
        loop = asyncio.get_running_loop()
        fields = {"model": model.name, "version": before.version}
        try:
            swapped = await loop.run_in_executor(self._pool, model.reload)
        except PolyrankError as error:
            self._refused(fields, str(error))
            return
        except Exception as error:  # whatever a broken bundle makes a library raise
            logger.exception(
                "unexpected error of a reload", extra={"fields": {"model": model.name}}
            )
            self._refused(fields, repr(error))
            return
        engine = model.current.engine
        self._telemetry.reloads[model.name, "loaded" if swapped else "same"] += 1
        self._telemetry.serves(model.name, engine)
        seconds = round(perf_counter() - start, 3)
        fields = {"model": model.name, "version": engine.version, "seconds": seconds}
        if not swapped:
            logger.info("the bundle is the same", extra={"fields": fields})
            return
        self._models.tidy()
        gc.freeze()  # as at the start: what is loaded stays, until it is replaced
        lacking = sorted(set(model.current.scorer.needed) - set(before.scorer.needed))
        gone = sorted(set(before.engine.outputs) - set(engine.outputs))
        fields |= {"before": before.version}
        if lacking or gone:  # requests and answers are others
            fields |= {"new_columns": lacking, "lost_outputs": gone}
            logger.warning("the bundle was replaced, and asks for others", extra={"fields": fields})
        else:
            logger.info("the bundle was replaced", extra={"fields": fields})

    def _refused(self, fields: dict[str, str], reason: str) -> None:
        self._telemetry.reloads[fields["model"], "refused"] += 1
        logger.error(
            "the new bundle is refused, and the one before goes on",
            extra={"fields": {**fields, "error": reason}},
        )

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
