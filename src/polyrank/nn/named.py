"""A container of modules by the names that people give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
MARK = ":"  # begins no attribute of a module
DOT = "\ue000"  # stands for a dot of a name, which torch allows in none


class Named(nn.Module, Generic[M]):
    """Modules by name, whatever the name: a task may well be called `forward`.

    Each is kept under a key that is no attribute's; a state dict has the names themselves.
    """

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name, module in modules.items():
            self.add_module(_key(name), module)
        self.register_state_dict_post_hook(_unmark)
        self.register_load_state_dict_pre_hook(_mark)
        self.register_load_state_dict_post_hook(_unmark_wrong)

    def __getitem__(self, name: str) -> M:
        return self._modules[_key(name)]  # pyrefly: ignore[bad-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def items(self) -> Iterator[tuple[str, M]]:
        return ((name, self[name]) for name in self.names)


def _key(name: str) -> str:
    return MARK + name.replace(".", DOT)


def _unmark(_: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
    """Rename what this container has just put last, in turn, so that the order stays."""
    for key in [key for key in state if key.startswith(prefix + MARK)]:
        state[prefix + key.removeprefix(prefix + MARK).replace(DOT, ".")] = state.pop(key)


def _mark(module: Named[Any], state: dict[str, Any], prefix: str, *__: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        own = key.removeprefix(prefix)
        names = [each for each in module.names if own.startswith(f"{each}.")]
        if len(names) > 1:  # "a" and "a.b": whose weight it is, the modules know
            fits = [n for n in names if own[len(n) + 1 :] in module[n].state_dict()]
            names = fits or names
        name = names[0] if names else own.partition(".")[0]
        state[f"{prefix}{_key(name)}{own.removeprefix(name)}"] = state.pop(key)


def _unmark_wrong(_: nn.Module, keys: Any) -> None:
    """Name missing and unexpected weights as the state dict does."""
    for each in (keys.missing_keys, keys.unexpected_keys):
        each[:] = [key.replace(MARK, "").replace(DOT, ".") for key in each]
