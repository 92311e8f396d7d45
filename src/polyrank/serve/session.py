"""One exported file in onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from polyrank.errors import BundleError
from polyrank.serve.inputs import Feeds


class Session:
    """An exported file, ready to run; safe to share among threads.

    Args:
        source: the file, or its bytes.
        threads: of one run; they sleep between operations and do not spin.

    Raises:
        BundleError: a file that onnxruntime cannot load.
    """

    def __init__(self, source: Path | bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; what is wrong is raised as well
        loaded = source if isinstance(source, bytes) else str(source)
        try:
            self._session = onnxruntime.InferenceSession(
                loaded, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  onnxruntime's classes have no common base
            where = "the exported model" if isinstance(source, bytes) else str(source)
            raise BundleError(f"{where} cannot be loaded by onnxruntime: {error}") from None
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """Return the outputs by name, in order: float64 (B,) each."""
        found = self._session.run(None, dict(feeds))
        return {name: np.asarray(each) for name, each in zip(self.outputs, found, strict=True)}
