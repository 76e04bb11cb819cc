"""A transformer of characters or of patches, its blocks stacked on a leading axis."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.counting import flops

HEAD = 8
ADAM = optax.scale_by_adam()


class Size(NamedTuple):
    """Of a net: width of the stream, and blocks."""

    width: int
    depth: int


class Job(NamedTuple):
    """Data, and what a net for it reads and puts out.

    Attributes:
      train: `(x, y)`; x holds integers `[n, T]` with y `[n, T]`, or patches `[n, T, features]`
        with y `[n]`.
      test: likewise.
      inputs: characters, or features of a patch.
      classes: characters, or kinds of images.
      batch: examples of a step.
      causal: whether a place sees only those before it.
    """

    train: Any
    test: Any
    inputs: int
    classes: int
    batch: int
    causal: bool


def init(size: Size, job: Job, key: Any) -> Any:
    """Pre-normalised blocks with heads of 8 units and an MLP four times as wide."""
    width, depth = size
    heads, length = width // HEAD, job.train[0].shape[1]
    shapes = {
        "query": (width, depth, width, heads, HEAD),
        "key": (width, depth, width, heads, HEAD),
        "value": (width, depth, width, heads, HEAD),
        "out": (2 * depth * width, depth, heads, HEAD, width),
        "up": (width / 2, depth, width, 4 * width),
        "down": (8 * depth * width, depth, 4 * width, width),
        "embed": (job.inputs if job.inputs > length else 1, job.inputs, width),
        "position": (length, length, width),
        "head": (width, width, job.classes),
    }
    ends = np.cumsum([math.prod(shape) for _, *shape in shapes.values()])
    parts = jnp.split(jr.normal(key, (ends[-1],)), ends[:-1])  # one draw compiles far faster
    drawn = {
        name: part.reshape(shape) * fan**-0.5
        for part, (name, (fan, *shape)) in zip(parts, shapes.items(), strict=True)
    }
    outside = {name: drawn.pop(name) for name in ("embed", "position", "head")}
    blocks = drawn | {
        "norm_attention": jnp.ones((depth, width)),
        "norm_mlp": jnp.ones((depth, width)),
        "bias": jnp.zeros((depth, 4 * width)),
    }
    return outside | {"blocks": blocks, "norm": jnp.ones(width)}


def start(size: Size, job: Job, key: Any) -> tuple[Any, Any]:
    """Parameters, and the optimizer's state."""
    params = init(size, job, key)
    return params, ADAM.init(params)


def normed(h: Any, scale: Any) -> Any:
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-6) * scale[None, None]


def attended(h: Any, w: Any, causal: bool) -> Any:
    to = lambda name: jnp.einsum("btd,dhk->bthk", h, w[name])
    scores = jnp.einsum("bihk,bjhk->bhij", to("query"), to("key")) * HEAD**-0.5
    if causal:
        length = h.shape[1]
        scores += jnp.where(jnp.tri(length, dtype=bool), 0.0, -1e9)[None, None]
    h = jnp.einsum("bhij,bjhk->bihk", jax.nn.softmax(scores), to("value"))
    return jnp.einsum("bthk,hkd->btd", h, w["out"])


def apply(params: Any, x: Any, *, causal: bool, unroll: int | bool = 1) -> Any:
    """Logits of each place of integers `[B, T]`, or of each image in patches `[B, T, features]`."""

    def block(h: Any, w: Any) -> Any:
        h = h + attended(normed(h, w["norm_attention"]), w, causal)
        inside = (
            jnp.einsum("btd,df->btf", normed(h, w["norm_mlp"]), w["up"]) + w["bias"][None, None]
        )
        return h + jnp.einsum("btf,fd->btd", jax.nn.relu(inside), w["down"]), None

    h = params["embed"][x] if x.ndim == 2 else jnp.einsum("btf,fd->btd", x, params["embed"])
    h, _ = jax.lax.scan(block, h + params["position"][None], params["blocks"], unroll=unroll)
    h = normed(h, params["norm"])
    h = h if x.ndim == 2 else h.mean(1)
    return h @ params["head"]


def loss(params: Any, batch: Any, *, causal: bool, unroll: int | bool = 1) -> Any:
    x, y = batch
    return ws.nets.cross_entropy(apply(params, x, causal=causal, unroll=unroll), y)


def step(carry: Any, rate: Any, batch: Any, *, causal: bool, unroll: int | bool = 1) -> Any:
    """A step of Adam."""
    params, state = carry
    gradient = jax.grad(functools.partial(loss, causal=causal, unroll=unroll))(params, batch)
    updates, state = ADAM.update(gradient, state)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates), state


def cost(size: Size, job: Job) -> float:
    """Floating-point operations of a step of one net, counted in the compiled step."""
    held = jax.eval_shape(lambda: start(size, job, jr.key(0)))
    turn = functools.partial(step, causal=job.causal, unroll=True)
    return flops(turn, held, 1e-3, jax.tree.map(lambda x: x[: job.batch], job.train))
