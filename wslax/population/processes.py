"""Several processes as one: each runs the same script over its part of one mesh."""

import contextlib
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wslax import tree
from wslax.population.members import axis_of, words
from wslax.population.ring import AXIS, devices
from wslax.typing import Params

COORDINATOR, PROCESSES, PROCESS = "WSLAX_COORDINATOR", "WSLAX_PROCESSES", "WSLAX_PROCESS"


def start(*, heartbeat: int = 30) -> int:
    """Join the processes that `python -m wslax.population.launch` started.

    To be called before JAX is used. Afterwards `jax.devices()` are those of all processes, so a
    mesh over them spreads a population over all. A script that runs alone runs unchanged. On
    clusters that JAX knows call `jax.distributed.initialize` instead.

    Args:
      heartbeat: seconds without a sign of life after which a process counts as dead, and the others
        end.

    Returns:
      The number of this process.

    Example:
        >>> import wslax as ws
        >>> ws.population.start()
        0
    """
    if COORDINATOR not in os.environ:
        return 0
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    process = int(os.environ[PROCESS])
    jax.distributed.initialize(
        os.environ[COORDINATOR],
        int(os.environ[PROCESSES]),
        process,
        heartbeat_timeout_seconds=heartbeat,
    )
    return process


def host(values: Params) -> Params:
    """Arrays as numpy in every process, wherever they lie.

    All processes must call it: what is spread over them is brought together.

    Args:
      values: any tree of arrays.

    Returns:
      The same tree of numpy arrays; of JAX keys their words.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.population.host({"fitness": jnp.zeros(2)})
        {'fitness': array([0., 0.], dtype=float32)}
    """

    def whole(x: Any) -> Any:
        return np.asarray(
            x if tree.is_whole(x) else multihost_utils.process_allgather(x, tiled=True)
        )

    return jax.tree.map(whole, words(values))


def over(population: Params) -> Any:
    """A context in which the mesh that a population is spread over is in use, if it is.

    Example:
        >>> import jax.numpy as jnp
        >>> with over({"w": jnp.zeros(2)}):
        ...     devices()
        1
    """
    spread = axis_of(population)
    if spread is None or spread[1] != AXIS or devices() > 1:
        return contextlib.nullcontext()
    return jax.set_mesh(spread[0])
