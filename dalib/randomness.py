"""Random draws that depend on their key alone, so that strategies do not disturb one another and resume is exact."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Key = str | int


def seed_of(*key: Key) -> int:
    """Return a 63-bit seed for a key; equal keys give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(device: torch.device, *key: Key) -> Iterator[None]:
    """Run the body with torch's generators (the CPU's and the device's) seeded from ``key``, then restore them."""
    cuda = device if device.type == "cuda" else None
    cpu_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state(cuda) if cuda else None
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    if cuda is not None:
        at = torch.cuda.current_device() if cuda.index is None else cuda.index
        torch.cuda.default_generators[at].manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
