"""Random numbers of a training run: each batch and each step has its own seed, made of the run's.

So nothing of a generator's state has to be kept: a run that is resumed at step 7 draws what an uninterrupted
one drew at step 7, shuffling, augmentation and dropout included, whatever was drawn before.

>>> seed_all(0, "step", 7); a = torch.rand(2)
>>> seed_all(0, "step", 7); torch.equal(a, torch.rand(2))
True
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["own_randomness", "seed_all", "seed_of"]


def seed_of(*key: object) -> int:
    """A seed of 63 bits that any part of the key changes."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def seed_all(*key: object) -> None:
    """Seeds the global generators of torch (on all devices), Python and numpy."""
    seed = seed_of(*key)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Afterwards the global generators stand where the caller left them."""
    devices = [device] if device.type != "cpu" else []
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
