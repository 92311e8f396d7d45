"""An MMoE with one table per feature, as in a tutorial, and the weights of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class NaiveMMoE(nn.Module):
    """Concatenated embeddings → experts, one gate per task → towers.

    Shape:
        - ids: int64 (B, F), rows of each feature's own table
        - output: the logits of click and of buy given click, (B,) each
    """

    def __init__(self, weights: Mapping[str, Tensor], features: Sequence[str]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(weights[f"embed.{name}"]) for name in features
        )
        experts = len({name.split(".")[2] for name in weights if name.startswith("trunk.expert.")})
        self.experts = nn.ModuleList(
            nn.Sequential(_linear(weights, f"trunk.expert.{number}.linear.0"), nn.ReLU())
            for number in range(experts)
        )
        self.gates = nn.ModuleList(
            nn.Sequential(_linear(weights, f"trunk.gate.{task}"), nn.Softmax(dim=1))
            for task in ("click", "buy")
        )
        self.towers = nn.ModuleList(
            nn.Sequential(
                _linear(weights, f"head.{task}.tower.linear.0"), nn.ReLU(),
                _linear(weights, f"head.{task}.tower.linear.1"), nn.ReLU(),
                _linear(weights, f"head.{task}.output"),
            )
            for task in ("click", "buy")
        )  # fmt: skip

    def forward(self, ids: Tensor) -> list[Tensor]:
        x = torch.cat([table(ids[:, at]) for at, table in enumerate(self.tables)], dim=1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        return [
            tower((gate(x).unsqueeze(2) * experts).sum(1)).squeeze(1)
            for gate, tower in zip(self.gates, self.towers, strict=True)
        ]


def _linear(weights: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer
