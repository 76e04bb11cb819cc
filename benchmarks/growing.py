"""Growing a transformer of 100 M parameters against copying the result."""

import concurrent.futures
import multiprocessing
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.runner import Row, peak, timed
from wslax import grow, nets, symmetry, tree

TITLE = "Growing in width"
ABOUT = """
A transformer of 100 M float32 parameters (12 blocks, 768 units, 12 heads, 20,000 tokens, tied
head) is made twice as wide: the stream, the MLPs and the number of heads, to 371 M. The edit is
applied as it is called, leaf by leaf, and under `jax.jit`; a compiled copy of the result (`x * s`)
is taken in turn with each. Bandwidth counts old weights read and new ones written, for the copy new
ones read and written; both write to fresh memory. Peak memory is over that of old and new weights:
what the compiled program asks for, and how far the resident set of a fresh process goes up (Linux).
"""
METHODS = ("net2wider", "hypercloning", "lemon")


def model() -> tuple[Any, symmetry.Groups, dict[int, int]]:
    """Shapes, groups, and twice the width of the stream, the MLPs and the number of heads."""
    net = nets.transformer(20_000, 128, width=768, heads=12, depth=12)
    spec = jax.eval_shape(net.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 128), jnp.int32)
    groups = symmetry.infer(net.apply, spec, tokens)
    sizes = {group.id: 2 * group.size for group in groups.free if group.size != 64}
    return spec, groups, sizes


def resident(what: str) -> int:
    """A line of the process's memory status, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def weights(spec: Any) -> Any:
    draw = lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype)
    return jax.jit(lambda: jax.tree.map(draw, spec))()


def held(method: str) -> float:
    """The most memory a fresh process holds while it grows, over old and new weights."""
    spec, groups, sizes = model()
    params, edit = weights(spec), grow.widen(groups, sizes, method=method, key=0)
    jax.block_until_ready(params)
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    wide = jax.block_until_ready(edit.apply(params))
    old = tree.nbytes(params)
    return (old + resident("VmHWM") - before) / (old + tree.nbytes(wide))


def measure(repeats: int) -> list[Row]:
    spec, groups, sizes = model()
    params = weights(spec)
    copy = jax.jit(lambda params, s: jax.tree.map(lambda x: x * s, params))
    old, rows = tree.nbytes(params), []
    for method in METHODS:
        start = time.perf_counter()
        edit = grow.widen(groups, sizes, method=method, key=0)
        planned = time.perf_counter() - start
        start = time.perf_counter()
        compiled = jax.jit(edit.apply).lower(params).compile()
        compiling = time.perf_counter() - start
        first = timed(lambda run=edit.apply: run(params))
        wide = compiled(params)
        new = tree.nbytes(wide)
        jax.block_until_ready(copy(wide, 1.0))
        called, jitted = [], []
        for _ in range(repeats):
            bytes_copied = 2 * new / timed(lambda wide=wide: copy(wide, 1.0))
            called.append((old + new) / timed(lambda run=edit.apply: run(params)) / bytes_copied)
            jitted.append((old + new) / timed(lambda run=compiled: run(params)) / bytes_copied)
        del wide
        asked = peak(compiled) / (old + new)
        rows += [
            Row(f"{method}, as called: bandwidth over a copy's", called, "x", ">= 0.3"),
            Row(f"{method}, under jit: bandwidth over a copy's", jitted, "x", ">= 0.3"),
            Row(f"{method}, under jit: peak over old and new", [asked], "x", "<= 1"),
            Row(f"{method}: time to plan", [planned], "s"),
            Row(f"{method}, as called: time of the first call", [first], "s"),
            Row(f"{method}, under jit: time to trace and compile", [compiling], "s"),
        ]
        if pathlib.Path("/proc/self/clear_refs").exists():
            fresh = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                most = [pool.submit(held, method).result()]
            rows += [Row(f"{method}, as called: peak over old and new", most, "x", "<= 1")]
    return rows
