"""The k-th largest and the top-k mask against PyTorch, JAX and numpy, and against a copy."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.runner import Row, peak, timed
from wslax.numerics.threshold import kth_largest, top_k_mask

TITLE = "Exact selection"
ABOUT = """
`numerics.threshold.kth_largest` of the magnitudes of 16.8 million normal float32 numbers, k 5% of
them, compiled, against the k-th of `torch.topk`, of `lax.top_k` and of `numpy.partition`, which
find it of magnitudes made before. All take turns in one process, and agree. `top_k_mask` of 10^8
such numbers, k 5%, over a compiled negation of the same numbers into new memory, which is what a
copy costs that reads and writes each byte once. Its memory is the compiled program's.
"""
N, MANY = 1 << 24, 10**8
COUNT = N // 20


def peers(x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The others: each returns the k-th largest."""
    on_device = jnp.asarray(x)
    by_jax = jax.jit(lambda x: jax.lax.top_k(x, COUNT)[0][-1])
    found: dict[str, Callable[[], Any]] = {
        "numpy.partition": lambda: np.partition(x, -COUNT)[-COUNT],
        "lax.top_k": lambda: by_jax(on_device),
    }
    try:
        import torch
    except ImportError:
        return found
    tensor = torch.from_numpy(x)
    return {**found, "torch.topk": lambda: tensor.topk(COUNT, sorted=False).values.min().item()}


def kth(repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns."""
    ours = jax.jit(kth_largest)
    found: dict[str, list[float]] = {}
    for seed in range(repeats):
        x = np.random.default_rng(seed).standard_normal(N, np.float32)
        on_device, others = jnp.asarray(x), peers(np.abs(x))
        expected = float(ours(on_device, COUNT))
        times = sorted(timed(functools.partial(ours, on_device, COUNT)) for _ in range(3))
        found.setdefault("kth_largest", []).append(times[1])
        for name, other in others.items():
            if name == "lax.top_k":
                other()  # compile
            begin = time.perf_counter()
            value = float(other())
            taken = time.perf_counter() - begin
            if value != expected:
                raise AssertionError(f"{name} found {value}, kth_largest {expected}")
            found.setdefault(name, []).append(taken)
            found.setdefault(f"{name} over kth_largest", []).append(taken / times[1])
    return found


def masks(repeats: int) -> list[Row]:
    """The mask over a copy, in turns, and its memory."""
    shape = jax.ShapeDtypeStruct((MANY,), jnp.float32)
    mask = jax.jit(top_k_mask, static_argnums=1).lower(shape, MANY // 20).compile()
    copy = jax.jit(jnp.negative)
    seconds, shares = [], []
    for seed in range(repeats):
        x = jax.random.normal(jax.random.key(seed), shape.shape)
        mask(x), copy(x)
        pairs = [(timed(lambda: mask(x)), timed(lambda: copy(x))) for _ in range(3)]  # noqa: B023
        seconds.append(sorted(a for a, _ in pairs)[1])
        shares.append(sorted(a / b for a, b in pairs)[1])
    beyond = peak(mask) - 4 * MANY
    return [
        Row("top_k_mask of 10^8", seconds, "s"),
        Row("top_k_mask of 10^8 over a copy", shares, "x", "<= 4"),
        Row("top_k_mask of 10^8: memory beyond its input", [beyond / 1e6], "MB"),
        Row("top_k_mask of 10^8: the mask itself", [MANY / 1e6], "MB"),
    ]


def measure(repeats: int) -> list[Row]:
    rows = [
        Row(what, values, *(("x", None) if " over " in what else ("s", None)))
        for what, values in sorted(kth(repeats).items())
    ]
    rows = [row._replace(target="<= 0.1") if row.what == "kth_largest" else row for row in rows]
    return [*rows, *masks(repeats)]
