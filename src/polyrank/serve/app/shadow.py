"""Models that score what others have answered, to be compared before anybody sees them."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from polyrank.errors import PolyrankError
from polyrank.serve.app import request
from polyrank.serve.app.limits import Room
from polyrank.serve.app.models import Loaded, Models
from polyrank.serve.app.scorer import Scored, compared
from polyrank.serve.app.telemetry import Telemetry

logger = logging.getLogger(__name__)

WAITING = 16  # bodies at most, in all; one more is skipped and counted


class Shadows:
    """Scores bodies by shadow models in a thread of its own, after their answers.

    Nobody waits for them, and they wait for nobody: where more bodies come than they can score, the
    rest is skipped. Only the event loop's thread may call it.
    """

    def __init__(self, models: Models, names: tuple[str, ...], telemetry: Telemetry) -> None:
        self._models, self._names, self._telemetry = models, names, telemetry
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._tasks: set[asyncio.Task[None]] = set()
        for name in names:
            telemetry.shadowed(name)

    def look(self, body: bytes, given: Scored, request_id: str, room: Room) -> None:
        """Have a body scored that was answered; this returns at once."""
        for name in self._names:
            if len(self._tasks) >= WAITING:
                self._telemetry.shadows[name, "skipped"] += 1
                continue
            work = self._look(self._models[name].current, body, given, request_id)
            task = asyncio.get_running_loop().create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            room.stay()
            task.add_done_callback(lambda _: room.leave())

    async def settled(self) -> None:
        """Wait for what is being scored."""
        await asyncio.gather(*self._tasks)

    async def _look(self, loaded: Loaded, body: bytes, given: Scored, request_id: str) -> None:
        def score() -> Scored:
            asked = request.parsed(body)
            if "explore" in asked:  # what is compared is what models say, in no drawn order
                asked = {key: asked[key] for key in asked if key not in ("explore", "top_k")}
            return loaded.scorer.score(asked)

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, score)
        except Exception as error:  # noqa: BLE001  a shadow may be as broken as it likes
            self._telemetry.shadows[loaded.name, "failed"] += 1
            reason = str(error) if isinstance(error, PolyrankError) else repr(error)
            fields = {"request_id": request_id, "model": loaded.name, "version": loaded.version}
            logger.warning(
                "a shadow could not score a request", extra={"fields": {**fields, "error": reason}}
            )
            return
        self._telemetry.scored(loaded.name, found)
        self._telemetry.compared(loaded.name, compared(given, found))
