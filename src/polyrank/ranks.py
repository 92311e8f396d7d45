"""The processes of one run: a torch.distributed group that somebody made, or this process alone.

torchrun, Ray Train, Spark and SLURM start processes and make groups; nothing here does, but for the
group of processes that torchrun has started and that have none yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from polyrank.errors import ConfigError, TrainingError

Value = TypeVar("Value")
# What a launcher tells each process, by which a group can be made.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(eq=False)
class Ranks:
    """One process among those of a run, and what they tell each other.

    Whatever is exchanged is the same on all of them afterwards, bit for bit. Alone, nothing is
    exchanged.

    Args:
        rank: the number of this process, from 0.
        count: of the processes.
        device: through which the group sends tensors.
        exchanged: bytes that this process has put into exchanges of tensors so far.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    exchanged: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is anybody else."""
        return self.count > 1

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their sums over all processes, with one message."""
        if not self.several or not tensors:
            return
        flat = torch.cat([each.detach().reshape(-1) for each in tensors])
        self.exchanged += flat.nbytes
        _called(dist.all_reduce, flat)
        start = 0
        for each in tensors:
            each.detach().copy_(flat[start : start + each.numel()].view_as(each))
            start += each.numel()

    def joined(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the tensors of each process, by rank; they differ in length along dimension 0.

        All are of one device and of types of 4 bytes. They travel together, after their lengths.
        """
        if not self.several:
            return [list(tensors)]
        back, device = tensors[0].device, self.device
        own = torch.tensor([len(each) for each in tensors], device=device)
        known = [torch.empty_like(own) for _ in range(self.count)]
        _called(dist.all_gather, known, own)
        widths = torch.tensor([prod(each.shape[1:]) for each in tensors], device=device)
        sizes = [each * widths for each in known]
        room = int(torch.stack(sizes).sum(1).max())
        sent = torch.zeros(room, dtype=torch.int32, device=device)
        words = torch.cat([_words(each) for each in tensors]).to(device)
        sent[: len(words)] = words
        self.exchanged += sent.nbytes + own.nbytes
        found = [torch.empty_like(sent) for _ in range(self.count)]
        _called(dist.all_gather, found, sent)
        return [
            _parts(whole.to(back), size.tolist(), lengths.tolist(), tensors)
            for whole, size, lengths in zip(found, sizes, known, strict=True)
        ]

    def traded(
        self, tensors: Sequence[Sequence[Tensor]], lengths: Sequence[Sequence[int]] | None = None
    ) -> list[list[Tensor]]:
        """Give each process the tensors that are for it; return what each gave, by rank.

        For each process there are as many tensors, which differ in length along dimension 0 alone.
        All are of one device and of types of 4 bytes. They travel together, after their lengths,
        unless these are known: `lengths` are of what each process gives.
        """
        if not self.several:
            return [list(each) for each in tensors]
        like, device = tensors[self.rank], self.device
        back = like[0].device
        own = torch.tensor([[len(each) for each in given] for given in tensors], device=device)
        if lengths is None:
            known = torch.empty_like(own)
            _called(dist.all_to_all_single, known, own)
            self.exchanged += own.nbytes
        else:
            known = torch.tensor(lengths, device=device)
        widths = torch.tensor([prod(each.shape[1:]) for each in like], device=device)
        sizes, sent = known * widths, own * widths
        words = torch.cat([_words(each) for given in tensors for each in given]).to(device)
        of_each = sizes.sum(1).tolist()
        found = torch.empty(sum(of_each), dtype=torch.int32, device=device)
        _called(dist.all_to_all_single, found, words, of_each, sent.sum(1).tolist())
        self.exchanged += words.nbytes - 4 * int(sent[self.rank].sum())
        return [
            _parts(whole, size.tolist(), each.tolist(), like)
            for whole, size, each in zip(found.to(back).split(of_each), sizes, known, strict=True)
        ]

    def of_first(self, value: Value) -> Value:
        """Return the value that the first process gives: plain data, which is pickled."""
        if not self.several:
            return value
        box = [value if self.first else None]
        _called(dist.broadcast_object_list, box)
        return box[0]  # pyrefly: ignore[bad-return]

    def by_all(self, value: Value) -> list[Value]:
        """Return the value that each process gives, by rank: plain data, which is pickled."""
        if not self.several:
            return [value]
        box: list[Any] = [None] * self.count
        _called(dist.all_gather_object, box, value)
        return box

    def tensors_of_first(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the named tensors, on the CPU, that the first process gives."""
        if not self.several:
            return dict(tensors)
        shapes = {name: (each.shape, each.dtype) for name, each in tensors.items()}
        found = {}
        for name, (shape, dtype) in self.of_first(shapes).items():
            each = tensors[name] if self.first else torch.empty(shape, dtype=dtype)
            moved = each.contiguous().to(self.device)
            _called(dist.broadcast, moved, 0)
            found[name] = moved.cpu()
        return found

    @contextmanager
    def first_before_others(self) -> Generator[None]:
        """Let the first process go through the block before the others."""
        if self.several and not self.first:
            _called(dist.barrier)
        yield
        if self.several and self.first:
            _called(dist.barrier)

    def own(self, device: str) -> str:
        """Return the device of this process: of "cuda", that of its number on the host."""
        return self.device if device == "cuda" else device


ALONE = Ranks()


def _parts(
    words: Tensor, sizes: Sequence[int], lengths: Sequence[int], like: Sequence[Tensor]
) -> list[Tensor]:
    """Return the tensors of one process from what it sent."""
    each = words[: sum(sizes)].split(list(sizes))
    return [
        part.view(own.dtype).view(length, *own.shape[1:])
        for part, length, own in zip(each, lengths, like, strict=True)
    ]


def _words(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor, of 4 bytes each, as int32."""
    return tensor.detach().contiguous().view(-1).view(torch.int32)


def _called(collective: Callable[..., Any], *arguments: Any) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:  # those of torch.distributed are such
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"another process of this run has ended or cannot be reached ({reason}): see its own "
            "message; the run folder stays as it was at the last checkpoint, and --resume goes on"
        ) from error


@contextmanager
def joined_ranks(device: str) -> Generator[Ranks]:
    """Give the processes of the group that there is; make it where a launcher started us.

    A group that was made here ends with the block; any other is used as it is.

    Args:
        device: that is trained on; a "cuda" without a number is the one of the process on its host.

    Raises:
        ConfigError: a launcher speaks of several processes and their group cannot be made.
    """
    if not dist.is_available() or not (dist.is_initialized() or launched()):
        yield Ranks()
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    with ExitStack() as stack:
        if not dist.is_initialized():
            stack.enter_context(_group(device))
        sends = device if dist.get_backend() == "nccl" else "cpu"
        yield Ranks(dist.get_rank(), dist.get_world_size(), sends)


@contextmanager
def _group(device: str) -> Generator[None]:
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    try:
        store, rank, count = next(dist.rendezvous("env://"))
        # torchrun may keep one store for all attempts, with the addresses of those that died.
        store = dist.PrefixStore(f"attempt {_attempt()}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the environment names {os.environ['WORLD_SIZE']} processes ({', '.join(_LAUNCHED)}), "
            f"but their group cannot be made: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def launched() -> bool:
    """Return whether a launcher such as torchrun started this process as one of several."""
    return all(name in os.environ for name in _LAUNCHED) and os.environ["WORLD_SIZE"] != "1"


def speaks() -> bool:
    """Return whether this process is the one of its run that prints, by what its launcher says."""
    return not launched() or os.environ["RANK"] == "0"


def of_host() -> int:
    """Return how many processes of the run share this host's memory, as far as is known."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def restarted() -> bool:
    """Return whether torchrun started this process anew, after one of the run had died."""
    return _attempt() > 0


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
