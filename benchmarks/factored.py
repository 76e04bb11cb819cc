"""Members as base and low-rank factors against members written out."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from benchmarks.runner import Row
from wslax.trace import LowRank, factored, over_members

TITLE = "Factored members"
ABOUT = """
64 members that share a base of four layers of 512 x 512 and differ by rank-8 factors, 8 inputs
each: `trace.factored` of the model under `vmap`, against the same `vmap` with each leaf written
out first, both compiled, in wall time of one run and, on CPUs, in CPU seconds. Outputs differ by
rounding; on NVIDIA GPUs JAX multiplies float32 in TF32 by default.
"""
MEMBERS, WIDTH, RANK, LAYERS, BATCH = 64, 512, 8, 4, 8


def apply(params: dict[str, Any], x: Any) -> Any:
    for i in range(LAYERS):
        x = jnp.tanh(x @ params[f"layer_{i}"])
    return x


def written_out(params: dict[str, Any], x: Any) -> Any:
    return apply({name: leaf.dense() for name, leaf in params.items()}, x)


def make(key: Any) -> dict[str, LowRank]:
    """Random bases and factors."""
    made = {}
    for i in range(LAYERS):
        base, down, up = jr.split(jr.fold_in(key, i), 3)
        made[f"layer_{i}"] = LowRank(
            jr.normal(base, (WIDTH, WIDTH)) / WIDTH**0.5,
            jr.normal(down, (MEMBERS, WIDTH, RANK)) / WIDTH**0.5,
            jr.normal(up, (MEMBERS, RANK, WIDTH)) / RANK**0.5,
        )
    return made


def timed(fn: Any, *args: Any) -> tuple[float, float]:
    """CPU seconds and wall time of a call, over ten."""
    jax.block_until_ready(fn(*args))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(10):
        jax.block_until_ready(fn(*args))
    return (time.process_time() - cpu) / 10, (time.perf_counter() - wall) / 10


def measure(repeats: int) -> list[Row]:
    params, x = make(jr.key(0)), jr.normal(jr.key(1), (BATCH, WIDTH))
    axes = (over_members(params), None)
    ours = jax.jit(jax.vmap(factored(apply, on_dense="error"), in_axes=axes))
    theirs = jax.jit(jax.vmap(written_out, in_axes=axes))
    found = [(timed(theirs, params, x), timed(ours, params, x)) for _ in range(repeats)]
    apart = float(jnp.abs(ours(params, x) - theirs(params, x)).max())
    cpu = Row(
        "written out, over factored, CPU seconds", [a[0] / b[0] for a, b in found], "x", ">= 20"
    )
    return [
        *([cpu] if jax.default_backend() == "cpu" else []),
        Row("written out, over factored, wall time", [a[1] / b[1] for a, b in found], "x"),
        Row("factored, 64 members", [b[1] for _, b in found], "s"),
        Row("largest difference of an output", [apart], ""),
    ]
