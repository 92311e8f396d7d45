"""The routes: one list that gives the router, the OpenAPI document and the names in the metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

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
from polyrank.serve.app.limits import Limits, Lingering, Queue, Refused, read_body
from polyrank.serve.app.middleware import RequestMiddleware, State, error_response
from polyrank.serve.app.openapi import Json, request_schema, responses
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.app.telemetry import Telemetry
from polyrank.serve.engine import Engine
from polyrank.serve.inputs import ROWS_FILE


@dataclass(frozen=True)
class Route:
    """A route, and how the OpenAPI document describes it."""

    path: str
    endpoint: Callable[[Request], Awaitable[ASGIApp]]  # its docstring is the route's summary
    method: str = "GET"  # includes HEAD
    body: Json | None = None  # JSON Schema
    responses: Mapping[int, Json] = field(default_factory=lambda: {200: _response("As JSON.")})
    timed: bool = False  # whether its requests are in the histogram of seconds

    def operation(self) -> Json:
        """Return the route in OpenAPI."""
        content = {"application/json": {"schema": self.body}}
        body = {"requestBody": {"required": True, "content": content}} if self.body else {}
        return {
            "operationId": self.endpoint.__name__,
            "summary": self.endpoint.__doc__,
            **body,
            "responses": {str(status): each for status, each in self.responses.items()},
        }


class Service:
    """The endpoints of an engine."""

    def __init__(self, engine: Engine, limits: Limits, state: State) -> None:
        self.engine, self.limits, self.state = engine, limits, state
        self.scorer = Scorer(engine, limits.rows)
        self.queue = Queue(self.scorer, limits)
        self.telemetry = Telemetry(
            (each.name for each in engine.schema.features if each.id_tables), engine.inputs
        )
        self.routes = (
            Route(
                "/v1/score",
                self.score,
                method="POST",
                body=request_schema(engine),
                responses=responses(engine),
                timed=True,
            ),
            Route("/v1/metadata", self.metadata),
            Route("/healthz", self.alive),
            Route(
                "/readyz",
                self.ready,
                responses={200: _response("Ready."), 503: _response("The server is stopping.")},
            ),
            Route(
                "/metrics",
                self.metrics,
                responses={200: _response("In the text format of Prometheus.", "text/plain")},
            ),
            Route("/openapi.json", self.openapi),
        )

    async def score(self, request: Request) -> ASGIApp:
        """Score rows, or rank candidates."""
        fields = request.scope["state"]["fields"]
        try:
            self.queue.check()  # a body that will not be scored is not read
            body = await read_body(request.scope, request.receive, self.limits)
            scored = await self.queue.run(body)
        except Refused as error:
            if error.status == 429:
                self.telemetry.rejected += 1
            response = error_response(error.status, str(error), fields, error.headers)
            too_large = error.status == 413 and "Connection" in error.headers
            return Lingering(response, self.limits.timeout_s) if too_large else response
        self.telemetry.scored(scored)
        fields["rows"] = scored.rows
        return Response(scored.body, media_type="application/json")

    async def metadata(self, _: Request) -> Response:
        """What is served, and within which limits."""
        engine = self.engine
        return JSONResponse(
            {
                "polyrank": __version__,
                "bundle": {key: engine.manifest[key] for key in ("polyrank", "format")},
                "schema": engine.schema.to_table(),
                "columns": list(self.scorer.needed),
                "outputs": list(engine.outputs),
                "fusion": None if engine.fusion is None else engine.fusion.to_table(),
                "parity": engine.manifest["onnx"][ROWS_FILE],
                "limits": asdict(self.limits),
            }
        )

    async def alive(self, _: Request) -> Response:
        """Whether the process is alive."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Whether to send requests here."""
        if self.state.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(self, _: Request) -> Response:
        """Counts for Prometheus."""
        exposition = self.telemetry.exposition()
        return Response(exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: Request) -> Response:
        """This document."""
        return JSONResponse(document(self.routes))

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


def app(engine: Engine, limits: Limits | None = None, state: State | None = None) -> Starlette:
    """Return an engine as an application for any ASGI server, which may stop it by its state."""
    state = state or State()
    service = Service(engine, limits or Limits(), state)
    timed = {each.path: each.timed for each in service.routes}
    found = Starlette(
        routes=[Routed(each.path, each.endpoint, methods=[each.method]) for each in service.routes],
        middleware=[
            Middleware(RequestMiddleware, telemetry=service.telemetry, state=state, timed=timed)
        ],
        exception_handlers={HTTPException: service.no_route},
    )
    found.router.redirect_slashes = False  # a redirect would name the host that the client wrote
    return found


def document(routes: Sequence[Route]) -> Json:
    """Return the OpenAPI document of some routes."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "polyrank",
            "summary": "Outcomes of impressions, and the order in which to show them.",
            "version": __version__,
        },
        "paths": {each.path: {each.method.lower(): each.operation()} for each in routes},
    }


def _response(description: str, media_type: str = "application/json") -> Json:
    return {"description": description, "content": {media_type: {}}}
