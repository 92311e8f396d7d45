"""What a run sets of torch and numba, and puts back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from polyrank.nn import kernels
from polyrank.train.training import Training


@contextmanager
def isolated(seed: int, training: Training) -> Iterator[None]:
    """Seed torch and set its threads, type and gradients inside; leave all as they were."""
    threads, device = torch.get_num_threads(), torch.device(training.device)
    others = [] if device.type == "cpu" else [device]
    dtype, kind = torch.get_default_dtype(), "cuda" if device.type == "cpu" else device.type
    with (
        torch.random.fork_rng(devices=others, device_type=kind),
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        kernels.threads(training.threads),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(training.threads)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
