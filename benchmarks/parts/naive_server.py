"""The handler that people write, for comparison: FastAPI, one model object per row, eager torch.

One pydantic model per row with one typed field per feature, one dictionary per vocabulary and one
look-up per cell, `torch.bucketize` for the numbers, the same weights under `inference_mode` on one
thread, and a response model. FastAPI parses and validates the body and writes the response itself.
The handler is `async`: a plain one runs in a pool of threads, which was slower.

    python -m parts.naive_server BUNDLE          prints its address, and stops on SIGTERM
"""

import socket
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from parts.naive_model import NaiveMMoE
from polyrank.bundle import format

PATH = "/score"


class Prediction(BaseModel):
    p_click: float
    p_buy_given_click: float
    p_buy: float
    score: float


class Answer(BaseModel):
    predictions: list[Prediction]


def app_of(folder: Path) -> FastAPI:
    """Return the application of a bundle."""
    parts = format.read(folder)
    features = parts.manifest["schema"]["features"]
    sparse = [each["name"] for each in features if each["name"] in parts.vocab]
    dense = [each["name"] for each in features if each["name"] not in parts.vocab]
    lookups = {
        name: dict(zip(frame["value"].to_list(), frame["row"].to_list(), strict=True))
        for name, frame in parts.vocab.items()
    }
    edges = [torch.tensor(parts.manifest["dense"][name]["edges"]) for name in dense]
    weights = {name: torch.from_numpy(each) for name, each in parts.weights.items()}
    model = NaiveMMoE(weights, [*sparse, *dense]).eval()
    click_weight, buy_weight = (float(parts.config["fusion"][name]) for name in ("click", "buy"))

    fields: dict[str, Any] = {
        **dict.fromkeys(sparse, (int, ...)),
        **dict.fromkeys(dense, (float, ...)),
    }
    Row = create_model("Row", **fields)  # noqa: N806  a class
    Rows = create_model("Rows", rows=(list[Row], ...))  # noqa: N806
    cells = {name: attrgetter(name) for name in fields}
    app = FastAPI()

    @app.post(PATH)
    async def score(body: Rows) -> Answer:  # pyrefly: ignore
        rows = body.rows
        columns = [
            torch.tensor([lookups[name].get(value, 0) for value in map(cells[name], rows)])
            for name in sparse
        ]
        for name, bounds in zip(dense, edges, strict=True):
            values = torch.tensor([*map(cells[name], rows)])
            columns.append(torch.bucketize(values, bounds) + 1)
        with torch.inference_mode():
            click, buy = (torch.sigmoid(each) for each in model(torch.stack(columns, dim=1)))
            joint = click * buy
            fused = click_weight * click.log() + buy_weight * joint.log()
        each = zip(click.tolist(), buy.tolist(), joint.tolist(), fused.tolist(), strict=True)
        return Answer(
            predictions=[
                Prediction(p_click=a, p_buy_given_click=b, p_buy=c, score=d) for a, b, c, d in each
            ]
        )

    return app


def main() -> None:
    """Serve until SIGTERM."""
    torch.set_num_threads(1)
    app = app_of(Path(sys.argv[1]))
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app, http="httptools", loop="uvloop", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
