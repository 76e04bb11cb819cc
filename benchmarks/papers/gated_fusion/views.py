"""Data that several views describe, some of them missing, and nets with an encoder a view."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import maize

WIDTH, STEPS, BATCH = 16, 600, 256
ROWS = (7000, 2000, 2000)  # of maize: a part of 60 or 20% of the trials has more
ADAM = optax.adam(3e-3)
PLOTS = {
    "plant": ("daystoflower", "plantheight", "earheight"),
    "stand": ("population", "lodged"),
    "grain": ("moisture", "testweight"),
}


class Part(NamedTuple):
    """Rows: features `[n, F]`, 0 where missing, which views are there `[n, V]`, answers."""

    x: Any
    present: Any
    y: Any


class Views(NamedTuple):
    """Training, validation and test rows, and the features of each view, `[V, F]`."""

    parts: tuple[Part, Part, Part]
    columns: Any


def plots(seed: int) -> Views | None:
    """Maize: plant, stand, grain and place; a trial (place and year) is in one part only."""
    rows = maize()
    if rows is None:
        return None
    names = [name for view in PLOTS.values() for name in view]
    table = np.array([[float(row[name] or "nan") for name in names] for row in rows])
    where = [np.array([row[key] for row in rows]) for key in ("loc", "year")]
    place = np.concatenate([w[:, None] == np.unique(w)[None] for w in where], 1)
    trial = np.array([row["env"] for row in rows])
    rng = np.random.default_rng(seed)
    trials = rng.permutation(np.unique(trial))
    cuts = np.split(trials, [len(trials) * 6 // 10, len(trials) * 8 // 10])
    first = np.isin(trial, cuts[0])
    mean, sd = np.nanmean(table[first], 0), np.nanstd(table[first], 0)
    x = np.concatenate([np.nan_to_num((table - mean) / sd), place], 1).astype(np.float32)
    view = [i for i, of in enumerate(PLOTS.values()) for _ in of] + [len(PLOTS)] * place.shape[1]
    columns = np.arange(len(PLOTS) + 1)[:, None] == np.array(view)[None]
    known = np.concatenate([~np.isnan(table), np.ones_like(place)], 1)
    present = (known[:, None] & columns[None]).any(-1)
    y = np.array([[float(row["yield"])] for row in rows], np.float32)
    y = y - y[first].mean(0, keepdims=True)

    def pick(part: Any, count: int) -> Part:
        rows = rng.permutation(np.flatnonzero(np.isin(trial, part)))[:count]
        return Part(*(jnp.asarray(a[rows]) for a in (x, present, y)))

    counts = zip(cuts, ROWS, strict=True)  # of one size for all seeds: programs compile once
    train, validation, test = (pick(*of) for of in counts)
    return Views((train, validation, test), jnp.asarray(columns))


def quadrants(seed: int) -> Views:
    """Digits of 8 x 8: each quarter of the image is a view."""
    at = np.arange(64)
    quarter = at // 32 * 2 + at % 8 // 4
    part = lambda x, y: Part(
        jnp.asarray(x.reshape(len(x), 64)), jnp.ones((len(x), 4), bool), jnp.asarray(y)
    )
    split = ws.data.digits()
    columns = jnp.asarray(np.arange(4)[:, None] == quarter[None])
    return Views((part(*split.train), part(*split.validation), part(*split.test)), columns)


def dropped(key: Any, present: Any, share: float) -> Any:
    """Views that are still there when each is lost with this chance."""
    return present & (jr.uniform(key, present.shape) >= share)


def dense(key: Any, n: int, m: int, views: int | None = None) -> Any:
    lead = () if views is None else (views,)
    kernel = jr.normal(key, (*lead, n, m)) * (2 / n) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros((*lead, m))}


def layer(params: Any, h: Any) -> Any:
    return h @ params["kernel"] + params["bias"][None]


def encoded(params: Any, columns: Any, x: Any) -> Any:
    """`[V, n, width]`: each view by the encoder that sees its features alone."""
    kernel = params["kernel"] * columns[..., None]
    return jax.nn.relu(jnp.einsum("nf,vfw->vnw", x, kernel) + params["bias"][:, None])


Loss = Callable[..., Any]


@functools.partial(jax.jit, static_argnames="loss")
def trained(loss: Loss, params: Any, columns: Any, part: Part, key: Any, drop: float) -> Any:
    """After the steps; `loss(params, columns, x, present, y)`."""

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        rows = jr.randint(key, (BATCH,), 0, len(part.x))
        x, present, y = (a[rows] for a in part)
        present = dropped(jr.fold_in(key, 1), present, drop)
        updates, state = ADAM.update(jax.grad(loss)(params, columns, x, present, y), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, ADAM.init(params))
    return jax.lax.scan(step, start, jr.split(key, STEPS))[0][0]
