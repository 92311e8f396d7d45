"""The routes: one list that gives the router, the OpenAPI document and the names in the metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Routed
from starlette.types import ASGIApp

from polyrank import __version__
from polyrank.errors import did_you_mean
from polyrank.serve.app import oip
from polyrank.serve.app.limits import Bodies, Limits, Lingering, Queue, Refused, read_body
from polyrank.serve.app.middleware import RequestMiddleware, State, error_response
from polyrank.serve.app.models import DEFAULT, Loaded, Model, Models
from polyrank.serve.app.openapi import Json, answer_schema, request_schema, response, responses
from polyrank.serve.app.request import parsed
from polyrank.serve.app.sampler import Sampler
from polyrank.serve.app.sampling import Sampling
from polyrank.serve.app.scorer import Scored
from polyrank.serve.app.shadow import Shadows
from polyrank.serve.app.split import Split
from polyrank.serve.app.telemetry import Telemetry
from polyrank.serve.engine import Engine
from polyrank.serve.inputs import ROWS_FILE


@dataclass(frozen=True)
class Route:
    """A route, and how the OpenAPI document describes it."""

    path: str
    endpoint: Callable[[Request], Awaitable[ASGIApp]]
    summary: str
    method: str = "GET"  # includes HEAD
    body: Callable[[], Json] | None = None  # JSON Schema, of the bundle that answers by then
    responses: Callable[[], Mapping[int, Json]] = lambda: {200: response("As JSON.")}
    timed: bool = False  # whether its requests are in the histogram of seconds

    def operation(self) -> Json:
        """Return the route in OpenAPI."""
        body: Json = {}
        if self.body is not None:
            content = {"application/json": {"schema": self.body()}}
            body = {"requestBody": {"required": True, "content": content}}
        return {
            "operationId": f"{self.method.lower()}{self.path.replace('/', '_')}",
            "summary": self.summary,
            **body,
            "responses": {str(status): each for status, each in self.responses().items()},
        }


Answer = tuple[Loaded, Scored]


class Service:
    """The endpoints of the models of a server."""

    def __init__(
        self, models: Models, limits: Limits, state: State, split: Split,
        sampling: Sampling | None = None,
    ) -> None:  # fmt: skip
        self.models, self.limits, self.state, self.split = models, limits, state, split
        self.queue, self.bodies = Queue(limits), Bodies(limits)
        self.telemetry = Telemetry(self.bodies)
        for name, model in models.items():
            self.telemetry.serves(name, model.current.engine)
        self.shadows = Shadows(models, tuple(split.shadows), self.telemetry)
        self.sampler: Sampler | None = None
        if sampling is not None:
            for name in models:
                self.telemetry.samples(name)
            self.sampler = Sampler(sampling, self.telemetry.sampled_as)
        self.routes = (
            *self._scoring("/v1", models.first, self._chosen, key=split.by),
            Route("/v1/models", self.listed, "The models that are served, and their versions."),
            *(
                route
                for name, model in models.items()
                for route in (
                    *self._scoring(f"/v1/models/{name}", model, partial(_by, model)),
                    *self._inferring(f"/v2/models/{name}", model),
                )
            ),
            Route("/v2", self.server, "The server, in the Open Inference Protocol."),
            Route("/v2/health/live", self.live, "Whether the process is alive."),
            Route("/v2/health/ready", self.ready, "Whether it is ready.", responses=_readiness),
            Route("/healthz", self.alive, "Whether the process is alive."),
            Route("/readyz", self.ready, "Whether to send requests here.", responses=_readiness),
            Route(
                "/metrics",
                self.metrics,
                "Counts for Prometheus.",
                responses=lambda: {
                    200: response("In the text format of Prometheus.", None, "text/plain")
                },
            ),
            Route("/openapi.json", self.openapi, "This document."),
        )

    def _scoring(
        self, path: str, model: Model, work: Callable[[bytes], Answer], key: str | None = None
    ) -> tuple[Route, Route]:
        """Return the routes of a model, or of whichever is chosen by the body."""
        return (
            Route(
                f"{path}/score",
                partial(self.score, work),
                "Score rows, or rank candidates.",
                method="POST",
                body=lambda: request_schema(model.current.engine, key),
                responses=lambda: responses(answer_schema(model.current.engine)),
                timed=True,
            ),
            Route(
                f"{path}/metadata",
                partial(self.metadata, model),
                "What is served, and within which limits.",
            ),
        )

    def _inferring(self, path: str, model: Model) -> tuple[Route, ...]:
        """Return the routes of a model in the Open Inference Protocol."""

        async def described(_: Request) -> Response:
            return JSONResponse(oip.metadata(model.name, model.current.engine))

        return (
            Route(path, described, "The inputs and outputs of a model."),
            Route(f"{path}/ready", self.ready, "Whether to send requests.", responses=_readiness),
            Route(
                f"{path}/infer",
                partial(self.infer, model),
                "Score rows as tensors.",
                method="POST",
                body=lambda: oip.request_schema(model.current.engine),
                responses=lambda: responses(oip.answer_schema()),
                timed=True,
            ),
        )

    def _chosen(self, body: bytes) -> Answer:
        given = parsed(body)
        name = self.split.model(given)
        loaded = (self.models.first if name is None else self.models[name]).current
        return loaded, loaded.scorer.score(given, () if self.split.by is None else (self.split.by,))

    async def infer(self, model: Model, request: Request) -> ASGIApp:
        """Answer tensors with their scores, or with an error."""
        length = request.headers.get(oip.HEADER_LENGTH)

        def work(body: bytes) -> Answer:
            loaded = model.current
            return loaded, oip.infer(loaded.scorer, loaded.name, length, body)

        return await self.score(work, request)

    async def score(self, work: Callable[[bytes], Answer], request: Request) -> ASGIApp:
        """Answer a body with its scores, or with an error."""
        fields = request.scope["state"]["fields"]
        room = self.bodies.room()
        try:
            self.queue.check()  # a body that will not be scored is not read
            body = await read_body(request.scope, request.receive, self.limits, room)
            loaded, scored = await self.queue.run(work, body, room)
            if work == self._chosen:
                self.shadows.look(body, scored, fields["request_id"], room)
        except Refused as error:
            if error.status == 429:
                self.telemetry.rejected += 1
            refusal = error_response(error.status, str(error), fields, error.headers)
            unread = error.status in (413, 429) and "Connection" in error.headers
            return Lingering(refusal, self.limits.timeout_s) if unread else refusal
        finally:
            room.leave()
        self.telemetry.scored(loaded.name, scored)
        if self.sampler is not None:
            self.sampler.look(loaded, scored, fields["request_id"], len(body))
        fields |= {"rows": scored.rows, "model": loaded.name, "version": loaded.version}
        content, media_type, headers = scored.answer
        headers = {**headers, "X-Model": loaded.name, "X-Model-Version": loaded.version}
        return Response(content, headers=headers, media_type=media_type)

    async def listed(self, _: Request) -> Response:
        """Answer with the models."""
        versions = {name: model.current.version for name, model in self.models.items()}
        split = self.split
        rest = 1 - sum(split.shares.values())
        found = [
            {
                "name": name,
                "version": version,
                "share": rest if name == self.models.first.name else split.shares.get(name, 0.0),
                "shadow": name in split.shadows,
            }
            for name, version in versions.items()
        ]
        return JSONResponse({"models": found, "split_by": split.by})

    async def metadata(self, model: Model, _: Request) -> Response:
        """Answer with what a model is."""
        loaded = model.current
        engine = loaded.engine
        return JSONResponse(
            {
                "polyrank": __version__,
                "model": loaded.name,
                "version": loaded.version,
                "bundle": {key: engine.manifest[key] for key in ("polyrank", "format")},
                "schema": engine.schema.to_table(),
                "columns": list(loaded.scorer.needed),
                "outputs": list(engine.outputs),
                "fusion": None if engine.fusion is None else engine.fusion.to_table(),
                "parity": engine.manifest["onnx"][ROWS_FILE],
                "limits": asdict(self.limits),
            }
        )

    async def server(self, _: Request) -> Response:
        """Answer with what the server is."""
        found = {"name": "polyrank", "version": __version__, "extensions": list(oip.EXTENSIONS)}
        return JSONResponse(found)

    async def live(self, _: Request) -> Response:
        """Answer, which is all there is to it."""
        return JSONResponse({"live": True})

    async def alive(self, _: Request) -> Response:
        """Answer, which is all there is to it."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Answer whether requests are welcome."""
        ready = not self.state.draining
        status = "ready" if ready else "draining"
        return JSONResponse({"status": status, "ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Answer with the counts."""
        return Response(self.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: Request) -> Response:
        """Answer with the document."""
        info = {
            "title": "polyrank",
            "summary": "Outcomes of impressions, and the order in which to show them.",
            "version": __version__,
        }
        paths = {each.path: {each.method.lower(): each.operation()} for each in self.routes}
        return JSONResponse({"openapi": "3.1.0", "info": info, "paths": paths})

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer a path or a method that no route has."""
        assert isinstance(error, HTTPException)
        path, headers = request.url.path[:100], dict(error.headers or {})
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no route {path!r}{did_you_mean(path, (each.path for each in self.routes))}"
        elif error.status_code == 405:
            methods = sorted(headers["Allow"].split(", "))
            headers["Allow"] = ", ".join(methods)
            message = f"{path} takes {' or '.join(methods)}, got {request.method}"
        fields = request.scope["state"]["fields"]
        return error_response(error.status_code, message, fields, headers)


def app(
    served: Engine | Models,
    limits: Limits | None = None,
    state: State | None = None,
    split: Split | None = None,
    sampling: Sampling | None = None,
) -> Starlette:
    """Return models, or an engine, as an application for any ASGI server.

    Whoever runs it may stop it by `state`, and finds its service at `app.state.service`; where
    requests are sampled, its `sampler` is to be closed in the end.
    """
    state, limits = state or State(), limits or Limits()
    if not isinstance(served, Models):
        served = Models([Model(DEFAULT, served, limits.rows)])
    service = Service(served, limits, state, split or Split(), sampling)
    timed = {each.path: each.timed for each in service.routes}
    found = Starlette(
        routes=[
            Routed(each.path, each.endpoint, methods=[each.method], name=each.path)
            for each in service.routes
        ],
        middleware=[
            Middleware(RequestMiddleware, telemetry=service.telemetry, state=state, timed=timed)
        ],
        exception_handlers={HTTPException: service.no_route},
    )
    found.state.service = service
    found.router.redirect_slashes = False  # a redirect would name the host that the client wrote
    return found


def _readiness() -> dict[int, Json]:
    return {200: response("Ready."), 503: response("The server is stopping.")}


def _by(model: Model, body: bytes) -> Answer:
    loaded = model.current  # to the end of this request
    return loaded, loaded.scorer(body)
