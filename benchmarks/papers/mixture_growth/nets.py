"""An MLP with BatchNorm, and training it in whatever form its weights have."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import wslax as ws
from benchmarks.papers.counting import flops

LAYERS, BATCH = 3, 64
HIDDEN = tuple(f"hidden_{i}" for i in range(LAYERS))


def init(width: int, features: int, key: Any) -> Any:
    """Parameters."""
    draw = lambda i, *shape: jr.normal(jr.fold_in(key, i), shape) * (2 / shape[0]) ** 0.5
    hidden = {
        name: {
            "kernel": draw(i, width if i else features, width),
            "scale": jnp.ones(width),
            "bias": jnp.zeros(width),
        }
        for i, name in enumerate(HIDDEN)
    }
    return hidden | {"out": {"kernel": draw(LAYERS, width, 10)}}


def statistics(width: int) -> Any:
    """Running means and variances at the beginning."""
    return {name: {"mean": jnp.zeros(width), "var": jnp.ones(width)} for name in HIDDEN}


def groups(width: int, features: int) -> ws.symmetry.Groups:
    like = jax.eval_shape(lambda: init(width, features, jr.key(0)))
    tree = {"params": like, "stats": jax.eval_shape(lambda: statistics(width))}
    return ws.symmetry.feed_forward(tree, [*HIDDEN, "out"])


def apply(params: Any, stats: Any, x: Any, training: bool = False) -> tuple[Any, Any]:
    """Logits, and the running statistics after the batch."""
    h, after = x, {}
    for name in HIDDEN:
        h = h @ params[name]["kernel"]
        of = {"mean": h.mean(0), "var": h.var(0)} if training else stats[name]
        after[name] = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats[name], of)
        h = (h - of["mean"][None]) * jax.lax.rsqrt(of["var"] + 1e-5)[None]
        h = jax.nn.relu(h * params[name]["scale"][None] + params[name]["bias"][None])
    return h @ params["out"]["kernel"], after


def optimizer(params: Any, rate: float, steps: int) -> optax.GradientTransformation:
    """SGD as the authors': Nesterov, a cosine after a warm-up, no decay of coefficients."""
    templates = isinstance(params, ws.grow.Templates)
    mask = ws.grow.Templates(banks=True, coefficients=False) if templates else True
    schedule = optax.warmup_cosine_decay_schedule(0, rate, max(1, steps // 20), max(2, steps))
    sgd = optax.sgd(schedule, momentum=0.9, nesterov=True)
    return optax.chain(optax.add_decayed_weights(5e-4, mask=mask), sgd)


Form = Callable[[Any], Any]


def plain(params: Any) -> Any:
    """One net, as nets `[1, ...]`."""
    return jax.tree.map(lambda x: x[None], params)


def step(form: Form, descent: Any, carry: Any, x: Any, y: Any) -> Any:
    """A step of all nets `[M, ...]` that `form` makes, on batches `x[M, B, features]`."""
    params, state, stats = carry

    def loss(params: Any) -> Any:
        run = lambda p, s, x: apply(p, s, x, training=True)
        logits, after = jax.vmap(run)(form(params), stats, x)
        return len(x) * ws.nets.cross_entropy(logits, y), after

    grads, stats = jax.grad(loss, has_aux=True)(params)
    updates, state = descent.update(grads, state, params)
    return optax.apply_updates(params, updates), state, stats


@functools.partial(jax.jit, static_argnames=("form", "rate", "steps"))
def train(form: Form, params: Any, stats: Any, data: Any, rate: float, steps: int) -> Any:
    """Members `[kinds, seeds]` and their nets' statistics `[kinds, seeds, M, ...]`, trained.

    A seed has one order of batches for all kinds.
    """
    x, y = data

    def one(params: Any, stats: Any, seed: Any) -> Any:
        descent = optimizer(params, rate, steps)
        nets = jax.tree.leaves(stats)[0].shape[0]

        def turn(carry: Any, key: Any) -> Any:
            rows = jr.randint(key, (nets, BATCH), 0, len(x))
            return step(form, descent, carry, x[rows], y[rows]), None

        keys = jr.split(jr.fold_in(jr.key(1), seed), steps)
        (params, _, stats), _ = jax.lax.scan(turn, (params, descent.init(params), stats), keys)
        return params, stats

    seeds = jnp.arange(jax.tree.leaves(params)[0].shape[1])
    return jax.vmap(jax.vmap(one), (0, 0, None))(params, stats, seeds)


@functools.partial(jax.jit, static_argnames="form")
def accuracies(form: Form, params: Any, stats: Any, test: Any) -> Any:
    """Of all nets of members `[kinds, seeds]`: `[kinds, seeds, M]`."""
    one = lambda p, s: ws.nets.accuracy(apply(p, s, test[0])[0], test[1])
    return jax.vmap(jax.vmap(lambda p, s: jax.vmap(one)(form(p), s)))(params, stats)


def cost(form: Form, params: Any, stats: Any, features: int) -> float:
    """Floating-point operations of a step, counted in what is compiled."""
    nets = jax.tree.leaves(stats)[0].shape[0]
    descent = optimizer(params, 0.1, 10)
    x, y = jnp.zeros((nets, BATCH, features)), jnp.zeros((nets, BATCH), int)
    carry = params, descent.init(params), stats
    return flops(functools.partial(step, form, descent), carry, x, y)
