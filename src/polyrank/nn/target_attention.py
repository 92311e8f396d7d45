"""What a trunk reads of x: target attention, the places of a list weighed by what is ranked.

A list of at most L ids fills L slots of x, one a place, so that kernels look up and update its rows
as those of any bag; an empty place is 0. Here the slots become one vector, which is what the trunk
reads: `Layout.read` says where it lies. What a tower of its own reads is left out.

Letters: B rows, L places, H columns of an embedding, W columns of x, R of what is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from polyrank.errors import ConfigError
from polyrank.layout import Layout
from polyrank.nn.mlp import MLP
from polyrank.nn.named import Named


class TargetAttention(nn.Module):
    """v(q) = Σ_j a(e_j, q) · e_j, with a(e, q) = w · f([e; q; e ⊙ q]) + b.

    There is no softmax over the places: the size of v says how much of the list is like q. An empty
    place, e_j = 0, adds nothing. The layers of f are Swish, a smooth gate as the paper's Dice is. b
    starts at 1: at first v is nearly the sum of the list.

    Shape:
        e: (B, L, H) · q: (B, H) · output: (B, H)

    Reference:
        Zhou et al., KDD 2018, "Deep Interest Network", eq. 3 and figure 2.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.unit = MLP(3 * width, hidden, activation="swish")
        self.output = nn.Linear(self.unit.width, 1)
        nn.init.ones_(self.output.bias)

    def forward(self, e: Tensor, q: Tensor) -> Tensor:
        each = q.unsqueeze(1).expand_as(e)
        a = self.output(self.unit(torch.cat([e, each, e * each], dim=2)))
        return (a * e).sum(dim=1)


class TargetPooling(nn.Module):
    """All attended lists of a layout: (B, W) → (B, R); other columns stay as they are.

    Those of features with a tower of their own, and of what first stages say of these, leave.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        attended = {each.name: each for each in layout.schema.features if each.target is not None}
        left_out = {slot.name for each in attended.values() for slot in each.slots[1:]}
        left_out |= {
            slot.name
            for each in layout.schema.features
            if each.name in layout.schema.own_towers
            for slot in each.slots
        }
        attention: dict[str, TargetAttention] = {}
        # What is read, in order: the name of a list, or "" for columns as they are.
        self.pieces: list[tuple[str, slice]] = []
        self.query: dict[str, slice] = {}
        for name, own in layout.slices.items():
            if name in left_out:
                continue
            if apart := layout.apart.get(name.removeprefix("#")):
                ends = [own.start - 1, *(own.start + at for at in sorted(apart)), own.stop]
                kept = (slice(before + 1, end) for before, end in pairwise(ends))
                self.pieces += [("", each) for each in kept if each.start < each.stop]
                continue
            feature = attended.get(name)
            if feature is None or feature.target is None:
                self.pieces.append(("", own))
                continue
            width, query = own.stop - own.start, layout.slices[feature.target.query]
            if query.stop - query.start != width:
                raise ConfigError(
                    f"feature {name!r} is attended to by {feature.target.query!r}, whose "
                    f"embeddings have {query.stop - query.start} columns where its own have "
                    f"{width}: give both one embed_dim, or share one table"
                )
            attention[name] = TargetAttention(width, feature.target.hidden)
            self.query[name] = query
            # The places of a list lie side by side: they are of one table, one after the other.
            self.pieces.append((name, slice(own.start, own.start + width * len(feature.slots))))
        self.attention = Named(attention)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for name, columns in self.pieces:
            piece = x[:, columns]
            if name:
                query = x[:, self.query[name]]
                places = piece.unflatten(1, (-1, query.shape[1]))
                piece = self.attention[name](places, query)
            found.append(piece)
        return torch.cat(found, dim=1)
