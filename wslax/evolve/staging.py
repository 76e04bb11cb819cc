"""Strategies that serve populations in the host's memory or in int8: their programs by parts."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from wslax.errors import WeightSpaceError
from wslax.population import devices
from wslax.population.int8 import quantized
from wslax.population.offloading import offloaded


@dataclasses.dataclass(frozen=True)
class Staged:
    """`ask` or `tell` as one program, or of an offloaded population by the programs of its parts.

    `parts` is `(key, state, ...) -> ...` made of functions that are jitted or stream rows (`breed`,
    `place`): what it decides must be the work of jitted ones, so that both ways give the same bits.
    """

    parts: Callable[..., Any]

    @functools.cached_property
    def _whole(self) -> Callable[..., Any]:
        return jax.jit(self.parts)

    def __call__(self, key: Any, state: Any, *more: Any) -> Any:
        """As `Strategy` has it."""
        fn = self.parts if offloaded(state.members.params) else self._whole
        return fn(key, state, *more)


def check_form(population: Any, served: bool) -> None:
    """Raise if a population is offloaded or quantized and a strategy does not serve that.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> check_form(ws.population.quantize({"w": jnp.ones((2, 3))}), False)
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: population: quantized, which this strategy does not serve...
    """
    for form, is_so in {"offloaded": offloaded, "quantized": quantized}.items():
        if is_so(population) and not served:
            raise WeightSpaceError(
                f"population: {form}, which this strategy does not serve; give floating arrays on "
                "the device, or evolve it by genome() or genetic_algorithm()"
            )
    if offloaded(population) and devices() > 1:
        raise WeightSpaceError(
            "population: offloaded, which streams through one device; use no mesh, or spread the "
            "population over it by ws.population.shard"
        )
