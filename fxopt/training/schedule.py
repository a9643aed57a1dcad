"""The optimizer and the learning rate over the steps: AdamW, warm-up, half a cosine down to zero.

>>> [round(rate_at(step, 10, 0.2, "cosine"), 2) for step in (0, 1, 2, 6, 9)]
[0.5, 1.0, 1.0, 0.5, 0.04]
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fxopt.errors import InputError
from fxopt.training.settings import Settings
from fxopt.training.users import call_user

__all__ = ["make_optimizer", "make_schedule", "rate_at"]


def make_optimizer(parameters: Mapping[str, torch.nn.Parameter], settings: Settings) -> Optimizer:
    """The optimizer that the settings name.

    AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) decays weights of two
    dimensions and more: biases, scales and shifts are not made smaller.

    Raises:
        InputError: the user's function fails or makes something else.
    """
    given = list(parameters.values())
    if settings.optimizer is None:
        decay = [p for p in given if p.dim() > 1]
        plain = [p for p in given if p.dim() <= 1]
        groups = [
            {"params": params, "weight_decay": factor}
            for params, factor in ((decay, settings.weight_decay), (plain, 0.0))
            if params
        ]
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    maker = settings.optimizer
    if isinstance(maker, type):
        # A class of torch's own takes lr by name, though their common base does not say so.
        maker = partial(maker, lr=settings.learning_rate)
    made: object = call_user("optimizer", lambda: maker(given))
    if not isinstance(made, Optimizer):
        raise InputError(f"optimizer made a {type(made).__name__}; expected a torch.optim.Optimizer")
    return made


def make_schedule(optimizer: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    """The scheduler that the settings name, stepped once a batch.

    Raises:
        InputError: the user's function fails or makes something else.
    """
    if isinstance(settings.schedule, str):
        kind, warmup = settings.schedule, settings.warmup
        return LambdaLR(optimizer, lambda step: rate_at(step, steps, warmup, kind))
    maker = settings.schedule
    made: object = call_user("schedule", lambda: maker(optimizer))
    if not isinstance(made, LRScheduler):
        raise InputError(f"schedule made a {type(made).__name__}; expected a scheduler of torch.optim's")
    return made


def rate_at(step: int, steps: int, warmup: float, kind: str) -> float:
    """The learning rate of a step (from 0), as a part of the highest."""
    rising = math.ceil(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    if kind == "constant":
        return 1.0
    done = (step - rising) / max(1, steps - rising)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
