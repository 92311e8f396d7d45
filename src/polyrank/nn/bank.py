"""Perceptrons of one shape, computed together: their layers lie in one tensor each.

Letters: B rows, W columns of x, E members, H columns of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polyrank.nn.mlp import MLP, Norm, RowNorm


class Bank(nn.Module):
    """MLPs of one shape: a matmul a layer for all of them, in place of one for each.

    The packed tensors are the parameters. Each member is there under its number all the same, as an
    MLP whose weights are views into them: a state dict has the members' names and shapes, loading
    one fills the packed tensors, and so does any write in place. A member that is read by its
    number carries its slice of the gradient; what it computes alone has none.

    Shape:
        - input: (B, W), read by every member
        - output: (B, E, H)
    """

    def __init__(
        self, inputs: int, members: int, hidden: Sequence[int], norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        each = [MLP(inputs, hidden, norm, dropout) for _ in range(members)]
        self.members = members
        self.width = each[0].width
        self.packed = _Packed(each)
        for number, member in enumerate(each):
            self.add_module(str(number), member)
        self._bind()
        self.register_load_state_dict_post_hook(_take)

    def forward(self, x: Tensor) -> Tensor:
        """Return every member's output."""
        return self.packed(x, self.members)

    def __len__(self) -> int:
        return self.members

    def __iter__(self) -> Iterator[MLP]:
        return (self[number] for number in range(self.members))

    def __getitem__(self, number: int) -> MLP:
        for whole, parts in self._pairs():
            for name in ("weight", "bias"):
                gradient = getattr(whole, name).grad
                own = None if gradient is None else gradient.chunk(self.members)[number]
                getattr(parts[number], name).grad = own
        return self._member(number)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind()  # a copy of a view is no view of the copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._bind()
        return self

    def _member(self, number: int) -> MLP:
        member = self._modules[str(number)]
        assert isinstance(member, MLP)
        return member

    def _pairs(self) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
        """Each packed layer with the members' layers that view it."""
        each = [self._member(number) for number in range(self.members)]
        for index, whole in enumerate(self.packed.linear):
            yield whole, [member.linear[index] for member in each]
        for index, whole in enumerate(self.packed.norm):
            if not isinstance(whole, nn.Identity):
                yield whole, [member.norm[index] for member in each]

    def _bind(self) -> None:
        for whole, parts in self._pairs():
            for name, views in _views(whole, self.members):
                for part, view in zip(parts, views, strict=True):
                    part._parameters.pop(name, None)  # noqa: SLF001
                    part._buffers.pop(name, None)  # noqa: SLF001  put back last: the order is kept
                    part.register_buffer(name, view)


def _take(bank: nn.Module, _: object) -> None:
    """Copy what was loaded with `assign=True`, which puts tensors in the place of views."""
    assert isinstance(bank, Bank)
    with torch.no_grad():
        for whole, parts in bank._pairs():  # noqa: SLF001
            for name, views in _views(whole, len(parts)):
                for part, view in zip(parts, views, strict=True):
                    view.copy_(getattr(part, name))
    bank._bind()  # noqa: SLF001


def _views(whole: nn.Module, members: int) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """Each tensor of a packed layer by name, in a state dict's order, with the members' views."""
    for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
        one = tensor.detach()
        yield name, one.chunk(members) if one.ndim else (one,) * members  # they count as one


class _Unnamed(nn.Module):
    """Leaves its tensors out of state dicts, where the members' views stand for them."""

    def _save_to_state_dict(self, destination: Any, prefix: Any, keep_vars: Any) -> None:
        pass

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if strict:
            unexpected_keys += [name for name in state_dict if name.startswith(prefix)]


class _Packed(nn.Module):
    """The layers of E MLPs, `linear` and `norm` as in one."""

    def __init__(self, each: Sequence[MLP]) -> None:
        super().__init__()
        self.linear = nn.ModuleList(
            _Linear(parts) for parts in zip(*(member.linear for member in each), strict=True)
        )
        self.norm = nn.ModuleList(
            _Norm(len(each) * norm.num_features) if isinstance(norm, RowNorm) else nn.Identity()
            for norm in each[0].norm
        )
        self.dropout = each[0].dropout
        self.normed, self.drops = each[0].normed, each[0].drops

    def forward(self, x: Tensor, members: int) -> Tensor:
        rows = x.shape[0]
        if not len(self.linear):
            return x.unsqueeze(1).expand(-1, members, -1)
        for depth, (layer, norm) in enumerate(zip(self.linear, self.norm, strict=True)):
            assert isinstance(layer, _Linear)
            if depth == 0:
                x = linear(x, layer.weight, layer.bias)
            else:
                weight = layer.weight.view(members, -1, layer.weight.shape[1])
                x = x.view(rows, members, -1).transpose(0, 1)
                x = torch.baddbmm(layer.bias.view(members, 1, -1), x, weight.transpose(1, 2))
                x = x.transpose(0, 1).reshape(rows, -1)
            if self.normed:
                x = norm(x)
            x = x.relu()
            if self.drops:
                x = self.dropout(x)
        return x.view(rows, members, -1)


class _Linear(_Unnamed):
    """Linear layers below one another: weight (E·H, W), bias (E·H)."""

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        self.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))


class _Norm(_Unnamed, RowNorm):
    """Batch norm of E·H columns, which is that of each member's."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass
