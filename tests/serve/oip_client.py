"""A public client of the Open Inference Protocol, asking a server; tritonclient and numpy alone.

    python oip_client.py PORT MODEL ROWS.json

Writes what it was answered to standard output, as JSON: the metadata, and the outputs for tensors
sent in JSON and as bytes, and received in either.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
from tritonclient import http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

NULL = {"INT64": -(2**63), "BYTES": "\ufdd0", "FP64": float("nan")}
PADDING = {"INT64": 1 - 2**63, "BYTES": "\ufdd1", "FP64": float("-inf")}


def tensor(values: list, datatype: str, *, lists: bool) -> np.ndarray:
    """Return values as a client writes them down: no null, and lists of one length."""
    if lists:
        longest = max(1, *(len(each or []) for each in values))
        values = [
            [*(each or []), *[PADDING[datatype]] * (longest - len(each or []))] for each in values
        ]
        cells = [[NULL[datatype] if one is None else one for one in each] for each in values]
    else:
        cells = [NULL[datatype] if each is None else each for each in values]
    return np.array(cells, object if datatype == "BYTES" else triton_to_np_dtype(datatype))


def main(port: str, model: str, rows: str) -> None:
    columns = json.loads(Path(rows).read_text(encoding="utf-8"))
    client = http.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert not client.is_model_ready("nobody")
    described = client.get_model_metadata(model)
    found = {"server": client.get_server_metadata(), "model": described, "answers": []}
    names = [each["name"] for each in described["outputs"]]
    for sent, received in product([False, True], repeat=2):
        inputs = []
        for each in described["inputs"]:
            cells = tensor(columns[each["name"]], each["datatype"], lists=len(each["shape"]) == 2)
            one = http.InferInput(each["name"], list(cells.shape), each["datatype"])
            one.set_data_from_numpy(cells, binary_data=sent)
            inputs.append(one)
        wanted = [http.InferRequestedOutput(name, binary_data=received) for name in names]
        answer = client.infer(model, inputs, outputs=wanted, request_id="r7")
        assert answer.get_response()["id"] == "r7"
        found["answers"].append({name: answer.as_numpy(name).tolist() for name in names})
    everything = client.infer(model, inputs)  # no outputs: all of them, as bytes
    found["answers"].append({name: everything.as_numpy(name).tolist() for name in names})
    try:
        client.infer(model, inputs[1:])
    except InferenceServerException as error:
        found["refused"] = [error.status(), error.message()]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
