"""A residual MLP whose blocks are stacked on a leading axis, and training it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.counting import flops

STAGES = "blocks/*"
BATCH = 64
ADAM = optax.scale_by_adam()


def init(width: int, depth: int, features: int, key: Any) -> Any:
    """An embedding, `depth` pre-normalised blocks with twice the width inside, and a head."""
    normal = lambda i, fan, *shape: jr.normal(jr.fold_in(key, i), shape) * fan**-0.5
    blocks = {
        "scale": jnp.ones((depth, width)),
        "up": normal(0, width / 2, depth, width, 2 * width),
        "bias": jnp.zeros((depth, 2 * width)),
        "down": normal(1, 8 * width, depth, 2 * width, width),
    }
    embed, head = normal(2, features, features, width), normal(3, width, width, 10)
    return {"embed": embed, "blocks": blocks, "scale": jnp.ones(width), "head": head}


def normed(h: Any, scale: Any) -> Any:
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-6) * scale[None]


def apply(params: Any, x: Any, layers: Any = np.inf, unroll: int | bool = 1) -> Any:
    """Logits of the first `layers` blocks, so that one program serves nets of all depths."""

    def block(h: Any, at: Any) -> Any:
        i, w = at
        inside = jax.nn.relu(normed(h, w["scale"]) @ w["up"] + w["bias"][None])
        return h + jnp.where(i < layers, inside @ w["down"], 0), None

    h = x.reshape(len(x), -1) @ params["embed"]
    depth = len(params["blocks"]["up"])
    h, _ = jax.lax.scan(block, h, (jnp.arange(depth), params["blocks"]), unroll=unroll)
    return normed(h, params["scale"]) @ params["head"]


def whole(params: Any, lengths: tuple[int, ...] | None) -> Any:
    """The net, of which blocks may be stages."""
    if lengths is None:
        return params
    return ws.grow.stages.materialise(params, lengths, where=STAGES)


def step(
    carry: Any, rate: Any, batch: Any, lengths: Any, teacher: Any, layers: Any, unroll: Any = 1
) -> Any:
    """A step of AdamW on `(x, y)`, by the labels or by a teacher."""
    (params, state), (x, y) = carry, batch
    soft = None if teacher is None else apply(teacher, x, unroll=unroll)

    def loss(params: Any) -> Any:
        logits = apply(whole(params, lengths), x, layers, unroll)
        if teacher is None:
            return ws.nets.cross_entropy(logits, y)
        return ws.nets.distillation(logits, soft, y)

    updates, state = ADAM.update(jax.grad(loss)(params), state)
    return jax.tree.map(lambda p, u: p - rate * (u + 1e-2 * p), params, updates), state


@functools.partial(jax.jit, static_argnames=("epochs", "lengths"))
def train(
    params: Any,
    rate: Any,
    data: Any,
    epochs: int,
    *,
    lengths: Any = None,
    teachers: Any = None,
    layers: Any = np.inf,
) -> Any:
    """Members `[kinds, seeds]`, after some epochs, and their test accuracies `[..., epochs]`.

    A seed has one order of batches for all kinds. With `lengths` blocks are stages of an auxiliary
    net, with `teachers` `[seeds]` members learn from those, with `layers` `[kinds]` nets are no
    deeper than that.
    """
    (x, y), test = data
    steps = len(x) // BATCH

    def one(params: Any, layers: Any, teacher: Any, seed: Any) -> Any:
        def turn(carry: Any, rows: Any) -> Any:
            return step(carry, rate, (x[rows], y[rows]), lengths, teacher, layers), None

        def epoch(carry: Any, key: Any) -> Any:
            rows = jr.permutation(key, len(x))[: steps * BATCH].reshape(steps, BATCH)
            carry, _ = jax.lax.scan(turn, carry, rows)
            logits = apply(whole(carry[0], lengths), test[0], layers)
            return carry, ws.nets.accuracy(logits, test[1])

        keys = jr.split(jr.fold_in(jr.key(1), seed), epochs)
        (params, _), found = jax.lax.scan(epoch, (params, ADAM.init(params)), keys)
        return params, found

    kinds, seeds = jax.tree.leaves(params)[0].shape[:2]
    of_kind = jax.vmap(one, (0, None, None if teachers is None else 0, 0))
    layers = jnp.broadcast_to(layers, kinds)
    return jax.vmap(of_kind, (0, 0, None, None))(params, layers, teachers, jnp.arange(seeds))


@jax.jit
def accuracies(params: Any, layers: Any, test: Any) -> Any:
    """Of members `[kinds, seeds]`."""
    told = lambda p, layers: ws.nets.accuracy(apply(p, test[0], layers), test[1])
    return jax.vmap(jax.vmap(told, (0, None)))(params, layers)


def cost(params: Any, x: Any, y: Any, lengths: Any = None, teacher: Any = None) -> float:
    """Floating-point operations of an epoch of one net, counted in the compiled step."""
    carry, batch = (params, ADAM.init(params)), (x[:BATCH], y[:BATCH])
    turn = lambda carry, batch, teacher: step(carry, 1e-3, batch, lengths, teacher, np.inf, True)
    return flops(turn, carry, batch, teacher) * (len(x) // BATCH)
