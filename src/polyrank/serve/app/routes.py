"""The routes: one list that gives the router, the OpenAPI document and the names in the metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.app.telemetry import Telemetry
from polyrank.serve.engine import Engine
from polyrank.serve.inputs import ROWS_FILE

Json = dict[str, Any]
_COUNT: Json = {"type": "integer", "minimum": 0}
_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_NUMBERS: Json = {"type": "array", "items": _NUMBER}
_STATUSES = {
    400: "The body is not JSON in UTF-8.",
    408: "The body did not arrive in time.",
    413: "The body or its number of rows is over the limit.",
    422: "The bundle cannot score the rows; the error says why.",
    429: "The queue of requests is full.",
    500: "Unexpected error; the server's log has it under the request's id.",
    503: "The answer took too long.",
}


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
                responses=_responses(engine),
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
                responses={200: _response("In the text format of Prometheus.", None, "text/plain")},
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
        return Response(self.telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: Request) -> Response:
        """This document."""
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


def request_schema(engine: Engine) -> Json:
    """Return the schema of a body of `POST /v1/score`."""
    columns: Json = {name: codec.json for name, codec in engine.codecs.items()}
    beside = {k: each for codec in engine.codecs.values() for k, each in codec.beside.items()}
    columns |= {name: each.json for name, each in beside.items()}
    columns |= {name: _NUMBER for name in engine.fusion_columns if name not in columns}
    example = {name: codec.example for name, codec in engine.codecs.items()}
    example |= {name: each.example for name, each in beside.items()}
    example |= dict.fromkeys(engine.fusion_columns, 1.0)
    every = {"type": "object", "required": list(columns), "properties": columns}
    some = {"type": "object", "properties": columns}
    more = {} if engine.fusion is None else {"top_k": {"type": "integer", "minimum": 1}}
    shapes = {
        "rows": {"rows": {"oneOf": _tables(every)}},
        "ranking": {"context": some, "candidates": {"oneOf": _tables(some)}},
    }
    return {
        "oneOf": [
            {"title": title, **_closed({**keys, **more}, optional="top_k")}
            for title, keys in shapes.items()
        ],
        "example": {"rows": [example]},
    }


def answer_schema(engine: Engine) -> Json:
    """Return the schema of an answer of `POST /v1/score`."""
    counted = {
        "rows": {"type": "integer", "minimum": 1},
        "unseen": {"type": "object", "additionalProperties": _COUNT},
        "ignored": {"type": "array", "items": _STRING},
    }
    outputs = dict.fromkeys(engine.outputs, _NUMBERS)
    all_rows: Json = {"outputs": {"type": "object", "properties": outputs}}
    if engine.fusion is None:
        return _closed({**counted, **all_rows}, optional="ignored")
    all_rows |= {"score": _NUMBERS, "order": {"type": "array", "items": _COUNT}}
    best = {"row": _COUNT, **dict.fromkeys(["score", *engine.outputs], _NUMBER)}
    top = {"top": {"type": "array", "items": _closed(best)}}
    shapes = ({**counted, **all_rows}, {**counted, **top})
    return {"oneOf": [_closed(each, optional="ignored") for each in shapes]}


def _responses(engine: Engine) -> dict[int, Json]:
    error = _closed(dict.fromkeys(["error", "request_id"], _STRING))
    refused = {status: _response(text, error) for status, text in _STATUSES.items()}
    return {200: _response("The rows' outputs.", answer_schema(engine)), **refused}


def _tables(record: Json) -> list[Json]:
    properties = {
        name: {"type": "array", "items": each, "minItems": 1}
        for name, each in record["properties"].items()
    }
    return [
        {"type": "array", "items": record, "minItems": 1},
        {**record, "properties": properties},
    ]


def _closed(properties: Json, optional: str | None = None) -> Json:
    return {
        "type": "object",
        "required": [name for name in properties if name != optional],
        "properties": properties,
        "additionalProperties": False,
    }


def _response(
    description: str, schema: Json | None = None, media_type: str = "application/json"
) -> Json:
    content = {} if schema is None else {"schema": schema}
    return {"description": description, "content": {media_type: content}}
