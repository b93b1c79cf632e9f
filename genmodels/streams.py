"""Random streams: every shard of work has its own, named by (seed, purpose, shard, round)."""

import hashlib
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

_MT_WORDS = 624  # state words of MT19937, torch's CPU generator
_MT_OFFSET = 24  # bytes before them in Generator.get_state(): seed, left, seeded, next
G = TypeVar("G", bound=torch.Generator)


class Key(NamedTuple):
    """The name of one random stream; equal keys give equal bits, different keys independent ones.

    `purpose` says what the numbers are for ("train", "exchange", ...), `shard` which unit of work
    draws them, `round` which step of that unit.
    """

    seed: int
    purpose: str
    shard: int = 0
    round: int = 0

    def child(self, purpose: str) -> "Key":
        """Return the key of a sub-task, independent of this one and of its other children."""
        return self._replace(purpose=f"{self.purpose}/{purpose}")

    def at(self, *, shard: int | None = None, round: int | None = None) -> "Key":
        """Return this key at another shard or round."""
        return self._replace(
            shard=self.shard if shard is None else shard, round=self.round if round is None else round
        )

    def digest(self) -> bytes:
        """Return 32 bytes that depend on every part of the key."""
        text = f"{self.seed}\0{self.purpose}\0{self.shard}\0{self.round}"
        return hashlib.sha256(text.encode()).digest()

    def counter(self) -> int:
        """Return the 64-bit base of a counter-based generator."""
        return int.from_bytes(self.digest()[:8], "little")

    def numpy(self) -> np.random.Generator:
        """Return a numpy generator (PCG64) at the start of this stream."""
        return np.random.Generator(np.random.PCG64(int.from_bytes(self.digest(), "little")))

    def share(self, part: int, parts: int, device: torch.device | str = "cpu") -> "Share":
        """Return a generator at the start of this stream, for one of the parts that a batch is cut into."""
        share = Share(device)
        share.part, share.parts = part, parts
        return self._start(share)

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a torch generator at the start of this stream.

        On the CPU all words of the Mersenne Twister's state are filled: `manual_seed` keeps 32 bits
        of a seed only, so that among 10^5 streams two would be expected to be the same.
        """
        return self._start(torch.Generator(device))

    def _start(self, generator: G) -> G:
        generator.manual_seed(self.counter())
        if generator.device.type == "cpu":
            state = generator.get_state()
            sequence = np.random.SeedSequence(int.from_bytes(self.digest(), "little"))
            words = sequence.generate_state(_MT_WORDS, np.uint32).astype(np.uint64)
            words[0] |= 0x80000000  # never the all-zero state
            raw = torch.from_numpy(words.view(np.uint8))
            state[_MT_OFFSET : _MT_OFFSET + raw.numel()] = raw
            generator.set_state(state)
        return generator


class Share(torch.Generator):
    """A stream that all parts of a batch draw from: `normal` and the like give each its rows of the whole's.

    So the noise of an image is the same, into however many micro-batches and processes its batch is cut.
    """

    part: int  # rows part, part + parts, …
    parts: int


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal numbers on the generator's device; a Share's rows of them  # (image, …)."""
    return _rows(torch.randn, generator, shape, dtype)


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Return uniform numbers in [0, 1) on the generator's device; a Share's rows of them  # (image, …)."""
    return _rows(torch.rand, generator, shape, torch.float32)


def stratified(generator: torch.Generator, n: int) -> Tensor:
    """Return (π(i) + u)/n for the images i of a batch, π a random order, u ~ U[0, 1); a Share's of them.

    A row of a batch whose order never changes would else always have the same number  # (image,), float64.
    """
    part, parts = (generator.part, generator.parts) if isinstance(generator, Share) else (0, 1)
    order = torch.randperm(n * parts, generator=generator, device=generator.device)[part::parts]
    offset = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
    return (order + offset) / (n * parts)


def _rows(draw: Any, generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    part, parts = (generator.part, generator.parts) if isinstance(generator, Share) and shape else (0, 1)
    whole = (shape[0] * parts, *shape[1:]) if shape else shape
    numbers: Tensor = draw(whole, generator=generator, device=generator.device, dtype=dtype)
    return numbers[part::parts] if parts > 1 else numbers


class Streams:
    """One stream a picture: picture i draws from key.at(shard=first + i), however many others there are.

    Numbers are drawn on the CPU and moved, so that they are the same on every device.
    """

    def __init__(self, key: Key, n: int, first: int = 0, device: torch.device | str = "cpu") -> None:
        """Start the streams of n pictures, of which the first has the number `first`."""
        self.device = torch.device(device)
        self._generators = [key.at(shard=first + i).torch() for i in range(n)]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._generators)

    @property
    def generators(self) -> list[torch.Generator]:
        """Return each picture's generator, as it is now, on the CPU."""
        return self._generators

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers of `shape` for each picture  # (picture, *shape), float32."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return uniform numbers of `shape` in [0, 1) for each picture  # (picture, *shape), float32."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._generators]).to(self.device)
