"""Experts of one shape, computed together, and the gates that mix them.

Letters: B rows, W columns of x, E experts, H columns of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polyrank.nn.mlp import MLP, Activation, Norm, RowNorm
from polyrank.nn.named import Named


class ExpertBank(nn.Module):
    """MLPs of one shape, (B, W) → (B, E, H), with initial weights of their own: one matmul a layer.

    The packed tensors `linear` and `norm` are the parameters. Each expert is there by number too,
    an MLP whose weights are views into them: a state dict has the experts' names and shapes, and
    loading one fills the packed tensors. What such an expert computes alone has no gradient.
    """

    def __init__(
        self,
        inputs: int,
        experts: int,
        hidden: Sequence[int],
        norm: Norm,
        dropout: float,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        each = [MLP(inputs, hidden, norm, dropout, activation) for _ in range(experts)]
        first = each[0]
        self.experts, self.width = experts, first.width
        self.linear = nn.ModuleList(
            _Linear(layers) for layers in zip(*(expert.linear for expert in each), strict=True)
        )
        self.norm = nn.ModuleList(
            _Norm(experts * norm.num_features) if isinstance(norm, RowNorm) else nn.Identity()
            for norm in first.norm
        )
        self.dropout, self.normed, self.drops = first.dropout, first.normed, first.drops
        self.activate = first.activate
        for number, expert in enumerate(each):
            self.add_module(str(number), expert)
        self._bind()
        self.register_load_state_dict_post_hook(_take)

    def forward(self, x: Tensor) -> Tensor:
        rows, experts = x.shape[0], self.experts
        if not len(self.linear):
            return x.unsqueeze(1).expand(-1, experts, -1)
        for depth, (layer, norm) in enumerate(zip(self.linear, self.norm, strict=True)):
            assert isinstance(layer, _Linear)
            if depth == 0:
                x = linear(x, layer.weight, layer.bias)
            else:
                weight = layer.weight.view(experts, -1, layer.weight.shape[1])
                x = x.view(rows, experts, -1).transpose(0, 1)
                x = torch.baddbmm(layer.bias.view(experts, 1, -1), x, weight.transpose(1, 2))
                x = x.transpose(0, 1).reshape(rows, -1)
            if self.normed:
                x = norm(x)
            x = self.activate(x)
            if self.drops:
                x = self.dropout(x)
        return x.view(rows, experts, -1)

    def __len__(self) -> int:
        return self.experts

    def __iter__(self) -> Iterator[MLP]:
        return (self[number] for number in range(self.experts))

    def __getitem__(self, number: int) -> MLP:
        for whole, parts in self._pairs():
            for name in ("weight", "bias"):
                gradient = getattr(whole, name).grad
                own = None if gradient is None else gradient.chunk(self.experts)[number]
                getattr(parts[number], name).grad = own
        return self._expert(number)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind()  # a copy of a view is no view of the copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._bind()
        return self

    def _expert(self, number: int) -> MLP:
        return self._modules[str(number)]  # pyrefly: ignore[bad-return]

    def _pairs(self) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
        """Each packed layer with the experts' layers that view it."""
        each = [self._expert(number) for number in range(self.experts)]
        for index, whole in enumerate(self.linear):
            yield whole, [expert.linear[index] for expert in each]
        for index, whole in enumerate(self.norm):
            if not isinstance(whole, nn.Identity):
                yield whole, [expert.norm[index] for expert in each]

    def _views(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Each expert's layer with the name and the view of each of its tensors, in turn."""
        for whole, parts in self._pairs():
            for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
                one = tensor.detach()
                # A count of batches is one for all.
                views = one.chunk(self.experts) if one.ndim else (one,) * self.experts
                for part, view in zip(parts, views, strict=True):
                    yield part, name, view

    def _bind(self) -> None:
        for part, name, view in self._views():
            part._parameters.pop(name, None)  # noqa: SLF001
            part._buffers.pop(name, None)  # noqa: SLF001  put back last: the order is kept
            part.register_buffer(name, view)


@torch.no_grad()
def _take(bank: nn.Module, _: object) -> None:
    """Copy what was loaded with `assign=True`, which puts tensors in the place of views."""
    assert isinstance(bank, ExpertBank)
    for part, name, view in bank._views():  # noqa: SLF001
        view.copy_(getattr(part, name))
    bank._bind()  # noqa: SLF001


class _Unnamed(nn.Module):
    """Leaves its tensors out of state dicts, where the experts' views stand for them."""

    def _save_to_state_dict(self, destination: Any, prefix: Any, keep_vars: Any) -> None:
        pass

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        if strict:
            unexpected_keys += [name for name in state_dict if name.startswith(prefix)]


class _Linear(_Unnamed):
    """Linear layers below one another: weight (E·H, W), bias (E·H)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([each.weight.detach() for each in layers]))
        self.bias = nn.Parameter(torch.cat([each.bias.detach() for each in layers]))


class _Norm(_Unnamed, RowNorm):
    """Batch norm of E·H columns, which is that of each expert's."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Gate(nn.Module):
    """softmax(W·x), (B, W) → (B, E): weights of experts; no bias, no normalisation, no dropout.

    Reference:
        Ma et al., KDD 2018, eq. 7.
    """

    def __init__(self, inputs: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, experts, bias=False).weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight).softmax(dim=-1)


class GateOfAll(nn.Module):
    """softmax(W·x) over the experts of all tasks, then the shared: (B, W) → (B, E).

    W is kept by task: in one matrix, the rows would depend on the order of tasks.
    """

    def __init__(self, inputs: int, experts: Mapping[str, int], shared: int) -> None:
        super().__init__()
        self.task = Named(
            {name: nn.Linear(inputs, own, bias=False) for name, own in experts.items()}
        )
        self.shared = nn.Linear(inputs, shared, bias=False) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        scores = [task(x) for _, task in self.task.items()]
        if self.shared is not None:
            scores.append(self.shared(x))
        return torch.cat(scores, dim=1).softmax(dim=1)


def mixture(weights: Tensor, outputs: Tensor) -> Tensor:
    """Return Σ_e weights[:, e] · outputs[:, e, :]: (B, E), (B, E, H) → (B, H)."""
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)


def mixtures(gate: Named[Gate], x: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Return `mixture(gate[name](x), outputs)` of each name, (B, H), by one matmul for all."""
    weight = torch.cat([gate[name].weight for name in gate])
    scores = linear(x, weight).view(x.shape[0], -1, outputs.shape[1])
    mixed = torch.bmm(scores.softmax(dim=2), outputs)
    return dict(zip(gate, mixed.unbind(1), strict=True))
