"""Populations: models of one architecture as one pytree with a leading member axis."""

from wslax.population.files import load, save
from wslax.population.int8 import dequantize, quantize
from wslax.population.members import (
    concat,
    evaluate,
    init,
    member,
    shard,
    size,
    stack,
    take,
    unstack,
)
from wslax.population.offloading import offload
from wslax.population.processes import host, start
from wslax.population.ring import devices, fetch
from wslax.population.steps import Member, Trainer, step_from_loss
from wslax.population.strategy import choose_strategy
from wslax.population.training import train

__all__ = [
    "Member",
    "Trainer",
    "choose_strategy",
    "concat",
    "dequantize",
    "devices",
    "evaluate",
    "fetch",
    "host",
    "init",
    "load",
    "member",
    "offload",
    "quantize",
    "save",
    "shard",
    "size",
    "stack",
    "start",
    "step_from_loss",
    "take",
    "train",
    "unstack",
]
