"""Trunks written plainly in float64, from the lasting names of their weights."""

from copy import deepcopy
from types import SimpleNamespace

import torch
from tests.numerics import assert_close

from polyrank.layout import Layout
from polyrank.schema import DenseFeature, Schema, Task

WIDTH = 6


def layout_of(tasks, width=WIDTH):
    schema = Schema([DenseFeature("x", encoding="standard")], tasks)
    return Layout(schema, SimpleNamespace(rows={}, columns={"x": width}), {})


def built(spec, tasks, seed=0):
    """The module of a trunk in float64; tasks are Tasks or names."""
    tasks = tuple(Task(each) if isinstance(each, str) else each for each in tasks)
    torch.manual_seed(seed)
    return spec.build(layout_of(tasks), tasks).double()


def expert(weights, name, x, activation="relu"):
    """One MLP, (B, W) → (B, H), layer by layer; batch norm in evaluation mode."""
    layer = 0
    while f"{name}.linear.{layer}.weight" in weights:
        x = x @ weights[f"{name}.linear.{layer}.weight"].T + weights[f"{name}.linear.{layer}.bias"]
        if f"{name}.norm.{layer}.weight" in weights:
            mean, variance, scale, shift = (
                weights[f"{name}.norm.{layer}.{each}"]
                for each in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
        x = x.clamp(min=0) if activation == "relu" else x / (1 + (-x).exp())
        layer += 1
    return x


def softmax(scores):
    e = scores.exp()
    return e / e.sum(1, keepdim=True)


def compared(trunk, reference, length, rows=5):
    """Compare a trunk's outputs, and gradients of x and of every weight, with a reference's.

    `reference` takes the weights by their lasting names, and x: (B, W) → {task: (B, H)}.
    """
    torch.manual_seed(1)
    x = torch.randn(rows, WIDTH, dtype=torch.float64, requires_grad=True)
    weights = {name: each.detach().clone() for name, each in trunk.state_dict().items()}
    learned = [name for name, each in gradients_by_name(trunk, ones=True).items() if each.any()]
    for name in learned:
        weights[name].requires_grad_()
    found, expected = trunk(x), reference(weights, x)
    assert list(found) == list(expected)
    loss, wanted = 0.0, 0.0
    for name, each in found.items():
        assert_close(each, expected[name], length)
        pull = torch.randn_like(each)
        loss, wanted = loss + (each * pull).sum(), wanted + (expected[name] * pull).sum()
    leaves = [x, *(weights[name] for name in learned)]
    of_x, *of_weights = torch.autograd.grad(wanted, leaves, allow_unused=True)
    trunk.zero_grad()
    x.grad = None
    loss.backward()
    assert_close(x.grad, of_x, 10 * length * rows)
    got = gradients_by_name(trunk)
    for name, each in zip(learned, of_weights, strict=True):
        each = torch.zeros_like(weights[name]) if each is None else each
        assert_close(got[name], each, 10 * length * rows)


def gradients_by_name(trunk, *, ones=False):
    """The gradients by the weights' lasting names, though experts lie packed; or where they are."""
    copy = deepcopy(trunk)
    with torch.no_grad():
        for buffer in copy.buffers():
            buffer.zero_()
        for mine, own in zip(trunk.parameters(), copy.parameters(), strict=True):
            own.copy_(1 if ones else 0 if mine.grad is None else mine.grad)
    return copy.state_dict()
