"""Weight matching against the loop that Git Re-Basin published."""

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

import wslax as ws
from benchmarks.runner import Row

TITLE = "Weight matching"
ABOUT = """
`align.weight_matching` of two nets 784-512-512-512-10 with independent random weights, compiled,
against the loop that Git Re-Basin published (one group at a time; every leaf of the group permuted
anew by `jnp.take`, a matrix product a leaf, SciPy's assignment), written anew here from the paper's
code, on the same pairs and warmed up. Both visit groups in the order of layers, so that they go the
same way. The objective is the inner product of the first net with the permuted second. The batch is
16 such pairs of nets 64-128-128-10 in one `vmap` against 16 calls. `infer` is `symmetry.infer` of
a transformer of twelve blocks, trace included.
"""
WIDE, SMALL = (784, 512, 512, 512, 10), (64, 128, 128, 10)


def make(sizes: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Dense layers with biases, normal weights."""
    params = {}
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        params[f"kernel_{i}"] = jax.random.normal(keys[0], (n, m))
        params[f"bias_{i}"] = jax.random.normal(keys[1], (m,))
    return params


def apply(params: dict[str, Any], x: Any) -> Any:
    depth = len(params) // 2
    for i in range(depth):
        x = x @ params[f"kernel_{i}"] + params[f"bias_{i}"]
        x = jax.nn.relu(x) if i < depth - 1 else x
    return x


def published(a: dict[str, Any], b: dict[str, Any]) -> dict[int, Any]:
    """The loop of the official code, for dense layers."""
    depth = len(a) // 2
    axes: dict[str, tuple[int | None, ...]] = {}
    for i in range(depth):
        before, after = (i - 1 if i else None), (i if i < depth - 1 else None)
        axes[f"kernel_{i}"] = (before, after)
        axes[f"bias_{i}"] = (after,)
    perm = {p: jnp.arange(a[f"bias_{p}"].shape[0]) for p in range(depth - 1)}

    def moved(name: str, skip: int) -> Any:
        w = b[name]
        for axis, p in enumerate(axes[name]):
            if axis != skip and p is not None:
                w = jnp.take(w, perm[p], axis=axis)
        return w

    for _ in range(100):
        progress = False
        for p in range(depth - 1):
            n = len(perm[p])
            score = jnp.zeros((n, n))
            for name, owners in axes.items():
                for axis, owner in enumerate(owners):
                    if owner == p:
                        x = jnp.moveaxis(a[name], axis, 0).reshape(n, -1)
                        y = jnp.moveaxis(moved(name, axis), axis, 0).reshape(n, -1)
                        score += x @ y.T
            _, columns = linear_sum_assignment(score, maximize=True)
            old = jnp.vdot(score, jnp.eye(n)[perm[p]])
            new = jnp.vdot(score, jnp.eye(n)[columns])
            progress = progress or bool(new > old + 1e-12)
            perm[p] = jnp.array(columns)
        if not progress:
            break
    return perm


def objective(a: dict[str, Any], b: dict[str, Any]) -> float:
    return sum(float(jnp.vdot(a[name], b[name])) for name in a)


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    out = jax.block_until_ready(fn())
    return time.perf_counter() - begin, out


def measure(repeats: int) -> list[Row]:
    wide = ws.symmetry.infer(apply, make(WIDE, 0), jnp.zeros((1, WIDE[0])))
    small = ws.symmetry.infer(apply, make(SMALL, 0), jnp.zeros((1, SMALL[0])))
    ids = {p: wide.at(f"bias_{p}", 0)[0].id for p in range(len(WIDE) - 2)}
    match = jax.jit(functools.partial(ws.align.weight_matching, groups=wide))
    few = jax.jit(functools.partial(ws.align.weight_matching, groups=small))
    many = jax.jit(jax.vmap(lambda a, b, key: ws.align.weight_matching(a, b, small, key=key)))
    pairs = [(make(SMALL, 2 * i), make(SMALL, 2 * i + 1)) for i in range(16)]
    a16, b16 = (ws.population.stack(list(side)) for side in zip(*pairs, strict=True))
    keys = jax.random.split(jax.random.key(0), 16)
    net = ws.nets.transformer(1000, 64, width=256, heads=8, depth=12)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    rows: dict[str, list[float]] = {}
    for repeat in range(-1, repeats):
        a, b = make(WIDE, 100 + 2 * repeat), make(WIDE, 101 + 2 * repeat)
        ours, orders = timed(lambda: match(a, b))  # noqa: B023
        theirs, perm = timed(lambda: published(a, b))  # noqa: B023
        found = objective(a, ws.symmetry.permute(b, wide, orders))
        peer = {ids[p]: np.asarray(order) for p, order in perm.items()}
        reached = objective(a, ws.symmetry.permute(b, wide, peer))
        batch, _ = timed(lambda: many(a16, b16, keys))
        calls, _ = timed(lambda: [few(x, y, key=k) for (x, y), k in zip(pairs, keys, strict=True)])
        traced, _ = timed(lambda: len(ws.symmetry.infer(net.apply, shapes, tokens).all))
        if repeat < 0:
            continue
        for name, value in {
            "theirs": theirs / ours, "ours": ours, "objective": found / reached,
            "batch": calls / batch, "infer": traced,
        }.items():  # fmt: skip
            rows.setdefault(name, []).append(value)
    return [
        Row("the published loop, over weight matching", rows["theirs"], "x", ">= 2"),
        Row("weight matching of 784-512-512-512-10", rows["ours"], "s"),
        Row("objective, over the published loop's", rows["objective"], "x", ">= 0.999"),
        Row("16 calls, over one batch of 16 pairs", rows["batch"], "x", ">= 1"),
        Row("infer on a transformer of twelve blocks", rows["infer"], "s", "<= 2"),
    ]
