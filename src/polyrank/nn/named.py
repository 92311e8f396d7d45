"""A container of modules by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from torch import nn


class Named(nn.Module):
    """Modules by name, whatever the name.

    `nn.ModuleDict` refuses the names of its own methods, and a task may well be called `update`.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(modules)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the modules; a mode of its own would clash with a task `training`."""
        for module in self.children():
            module.train(mode)
        return self

    def __getitem__(self, name: str) -> nn.Module:
        module = self._modules[name]
        assert module is not None
        return module

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)
