"""The routes: an engine as a FastAPI application, in any ASGI server or in a test."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from polyrank import __version__
from polyrank.errors import did_you_mean
from polyrank.serve.app.limits import Limits, Lingering, Queue, Refused, body_of
from polyrank.serve.app.middleware import ROUTES, SCORE, Front, State, refusal, told
from polyrank.serve.app.openapi import request_schema, responses
from polyrank.serve.app.scorer import Scorer
from polyrank.serve.app.telemetry import Telemetry
from polyrank.serve.engine import Engine
from polyrank.serve.inputs import ROWS_FILE


def app(engine: Engine, limits: Limits | None = None, state: State | None = None) -> FastAPI:
    """Return the application that answers with an engine.

    Args:
        engine: of an exported bundle.
        limits: of a request; None takes the defaults.
        state: what says that the server stops; None for one that nobody stops.
    """
    limits, state = limits or Limits(), state or State()
    scorer = Scorer(engine, limits.rows)
    queue = Queue(scorer, limits)
    telemetry = Telemetry(
        (each.name for each in engine.schema.id_features + engine.schema.sequence_features),
        engine.features,
    )

    found = FastAPI(
        title="polyrank",
        summary="Outcomes of impressions, and the order in which to show them.",
        version=__version__,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the client wrote
    )
    found.add_middleware(Front, telemetry=telemetry, state=state)
    found.add_exception_handler(HTTPException, _no_route)

    async def score(request: Request) -> Response:
        about = request.scope["state"]["about"]
        try:
            queue.check()  # a body that nobody will look at is not read
            body = await body_of(request.scope, request.receive, limits)
            answer = await queue.run(body)
        except Refused as error:
            if error.status == 429:
                telemetry.rejected += 1
            if error.status == 413 and "Connection" in error.headers:
                return Lingering(
                    told(str(error), about),
                    status_code=413,
                    headers=error.headers,
                    seconds=limits.timeout_s,
                )
            return refusal(error.status, str(error), about, error.headers)
        telemetry.scored(answer)
        about["rows"] = answer.rows
        return Response(answer.body, media_type="application/json")

    content = {"application/json": {"schema": request_schema(engine)}}
    found.post(
        SCORE,
        summary="Score rows, or rank candidates.",
        response_class=Response,
        responses=responses(engine),
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )(score)
    # FastAPI documents it, and the plain route in front answers it: what FastAPI does for arguments
    # that there are none of here takes as long as looking up 800 ids.
    found.router.routes.insert(0, Route(SCORE, score, methods=["POST"]))

    @found.get("/healthz", summary="Whether the process lives.")
    async def alive() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    stopping = {"description": "The server stops.", "content": {"application/json": {}}}

    @found.get("/readyz", summary="Whether requests are wanted.", responses={503: stopping})
    async def ready() -> JSONResponse:
        if state.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ready"})

    about_bundle = _metadata(engine, scorer, limits)

    @found.get("/v1/metadata", summary="What is served, and within which limits.")
    async def metadata() -> JSONResponse:
        return JSONResponse(about_bundle)

    text = {"description": "In its text format.", "content": {"text/plain": {}}}

    @found.get(
        "/metrics",
        summary="Counts for Prometheus.",
        response_class=Response,
        responses={200: text},
    )
    async def metrics() -> Response:
        return Response(telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # Whoever only wants to know whether something answers asks with HEAD.
    for path, answer in {
        "/healthz": alive,
        "/readyz": ready,
        "/metrics": metrics,
        "/v1/metadata": metadata,
    }.items():
        found.head(path, include_in_schema=False)(answer)
    return found


def _metadata(engine: Engine, scorer: Scorer, limits: Limits) -> dict[str, Any]:
    return {
        "polyrank": __version__,
        "bundle": {"polyrank": engine.manifest["polyrank"], "format": engine.manifest["format"]},
        "schema": engine.schema.to_table(),
        "columns": list(scorer.needed),
        "outputs": list(engine.outputs),
        "fusion": None if engine.fusion is None else engine.fusion.to_table(),
        "parity": engine.manifest["onnx"][ROWS_FILE],
        "limits": asdict(limits),
    }


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    about = request.scope["state"]["about"]
    path, headers = request.url.path[:100], Headers(error.headers)
    if error.status_code == 404:
        message = f"no route {path!r}{did_you_mean(path, ROUTES)}"
    elif error.status_code == 405:
        message = f"{path} is not asked with {request.method} but with {headers.get('allow')}"
    else:
        message = str(error.detail)
    return refusal(error.status_code, message, about, dict(headers))
