"""How far two computations of one thing may differ by rounding alone, on any CPU.

Kernels of other CPUs sum in another order. A sum of n terms is off by at most n·u times the sum of
their sizes (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), and two sums
differ by at most twice that: n·eps, since eps = 2u.
"""

import numpy as np
import torch


def tolerance(dtype, length):
    """Return the relative difference of two sums of `length` terms, chained sums added up."""
    return length * torch.finfo(dtype).eps


def assert_close(found, expected, length):
    """Compare tensors or arrays whose numbers are sums of `length` terms of the largest's size."""
    found, expected = (torch.as_tensor(np.asarray(each)) if not isinstance(each, torch.Tensor)
                       else each.detach() for each in (found, expected))  # fmt: skip
    relative = tolerance(found.dtype, length)
    size = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=relative, atol=relative * size)
