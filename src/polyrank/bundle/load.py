"""From a bundle's folder to a bundle."""

from __future__ import annotations

from pathlib import Path

import torch

from polyrank.bundle import format
from polyrank.bundle.encodings import vocab_of
from polyrank.bundle.model import Bundle
from polyrank.calibration.fitting import Calibrator
from polyrank.errors import BundleError, PolyrankError
from polyrank.layout import Layout
from polyrank.metrics.scorecard import Scorecard
from polyrank.models.model import BuildsTrunk, Model
from polyrank.models.ranker import Ranker
from polyrank.schema import Schema


def load(path: str | Path, *, trunk: BuildsTrunk | None = None) -> Bundle:
    """Load a bundle from its folder or its run's folder; no code of the file runs.

    Args:
        path: a run folder or a bundle folder.
        trunk: the spec of a trunk that polyrank does not have.

    Raises:
        BundleError: no bundle, a newer format, or a file that is missing or damaged.
    """
    folder = format.find(Path(path))
    parts = format.read(folder)
    try:
        schema = Schema.from_table(parts.manifest["schema"])
        model = Model.from_table(parts.manifest["model"], trunk)
        vocab = vocab_of(schema, parts)
        scales = {
            task: (float(each["mean"]), float(each["deviation"]))
            for task, each in parts.manifest["targets"].items()
        }
        calibrators = {
            task: Calibrator.from_table(each, f"calibrators.{task}")
            for task, each in parts.manifest.get("calibrators", {}).items()
        }
        card = None if parts.scorecard is None else Scorecard.from_json(parts.scorecard)
        ranker = _built(model, model.layout(schema, vocab))
    except PolyrankError as error:
        raise BundleError(f"the bundle {folder} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"the bundle {folder} is damaged: bundle.json: {error!r}") from error
    ranker.load_named_weights({name: torch.from_numpy(w) for name, w in parts.weights.items()})
    ranker.eval()
    return Bundle(
        schema, model, vocab, scales, ranker, parts.config, parts.history, card, calibrators
    )


def _built(model: Model, layout: Layout) -> Ranker:
    """Build a float32 network; the weights that it draws leave no trace in torch's generator."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            return model.build(layout)
    finally:
        torch.set_default_dtype(dtype)
