"""A training step with LIFT in place of AdamW, on a transformer of 25 million weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.runner import Row, timed

LAYERS, WIDTH, HEADS, VOCABULARY, BATCH, LENGTH = 8, 512, 8, 256, 8, 256
RANK, DENSITY, EVERY = 32, 0.05, 100

TITLE = "Training with LIFT"
ABOUT = f"""A decoder of {LAYERS} blocks of width {WIDTH} in float32, {BATCH} x {LENGTH} tokens. Its
step with `optax.adamw` against the same with `select.lift(optax.adamw(...), rank={RANK},
density={DENSITY})` and with `select.compact`, which trains the same selection and writes it into
the weights in a call of its own; arguments donated, programs take turns. A refresh is a step that
selects anew less one that does not, and is spread over {EVERY} steps. Temporary bytes are what the
compiler sets aside for the step besides its arguments and results, gradients too."""

MATRICES = {
    "qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH),
    "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH),
}  # fmt: skip


def make() -> Any:
    rng = np.random.default_rng(0)

    def matrix(m: int, n: int) -> Any:
        return jnp.asarray(rng.normal(size=(m, n)) / m**0.5, jnp.float32)

    blocks = [{name: matrix(*shape) for name, shape in MATRICES.items()} for _ in range(LAYERS)]
    return {"embed": matrix(VOCABULARY, WIDTH), "blocks": blocks}


def normed(x: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def loss(params: Any, tokens: Any) -> Any:
    x, split = params["embed"][tokens], (BATCH, LENGTH, HEADS, WIDTH // HEADS)
    for block in params["blocks"]:
        parts = jnp.split(normed(x) @ block["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(split) for part in parts)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.reshape(x.shape) @ block["out"]
        x = x + jax.nn.gelu(normed(x) @ block["up"]) @ block["down"]
    logits = normed(x) @ params["embed"].T
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
    return losses.mean()


Call = Callable[[], Any]


def dense(optimizer: Any, params: Any, tokens: Any) -> tuple[Any, Call, Call]:
    """The compiled step, a call of it, and a call of it that begins the count of updates anew."""

    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, tokens), state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.array, params)
    held = [params, jax.jit(optimizer.init)(params)]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*held).compile()

    def call() -> Any:
        held[:] = compiled(*held)
        return held

    def anew() -> Any:
        held[1] = held[1]._replace(count=jnp.zeros((), jnp.int32))
        return call()

    return compiled, call, anew


def compact(optimizer: Any, params: Any, tokens: Any) -> tuple[Any, Call]:
    where = "blocks/*"
    mask = ws.select.principal_mask(params, rank=RANK, density=DENSITY, where=where)
    adapter = ws.select.compact(mask)
    train, fixed = adapter.init(None, params)

    def step(params: Any, train: Any, state: Any) -> Any:
        grads = ws.select.values_at(jax.grad(loss)(params, tokens), fixed)
        updates, state = optimizer.update(grads, state, train)
        return optax.apply_updates(train, updates), state

    held = [jax.tree.map(jnp.array, params), train, optimizer.init(train)]
    compiled = jax.jit(step, donate_argnums=(1, 2)).lower(*held).compile()
    write = jax.jit(adapter.fuse, donate_argnums=0)

    def call() -> Any:
        held[1:] = compiled(*held)
        held[0] = write(held[0], held[1], fixed)
        return held

    return compiled, call


def measure(repeats: int) -> list[Row]:
    params, adamw = make(), optax.adamw(1e-4, b2=0.95)
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, (BATCH, LENGTH)))
    chosen = ws.select.lift(adamw, RANK, density=DENSITY, refresh_every=10**6, where="blocks/*")
    state_bytes = [ws.tree.nbytes(jax.eval_shape(o.init, params)) for o in (chosen, adamw)]

    plain, step, _ = dense(adamw, params, tokens)
    lifted, lift_step, refresh = dense(chosen, params, tokens)
    thin, compact_step = compact(adamw, params, tokens)
    for call in (step, refresh, lift_step, compact_step):
        timed(call)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        taken = [timed(call) for call in (step, lift_step, refresh, compact_step)]
        base, ours, anew, small = taken
        found.setdefault("AdamW's step", []).append(base)
        found.setdefault("LIFT's step over AdamW's", []).append(ours / base)
        found.setdefault("LIFT's refresh", []).append(anew - ours)
        share = 100 * (anew - ours) / EVERY / base
        found.setdefault(f"LIFT's refresh, spread over {EVERY} steps", []).append(share)
        found.setdefault("compact step over AdamW's", []).append(small / base)
    rows = [Row(what, values, *_unit(what)) for what, values in found.items()]
    temporary = lambda program: program.memory_analysis().temp_size_in_bytes
    return [
        *rows,
        Row("LIFT's state bytes over AdamW's", [state_bytes[0] / state_bytes[1]], "x", "<= 0.1"),
        Row("AdamW's temporary bytes", [temporary(plain) / 1e6], "MB"),
        Row("LIFT's temporary bytes", [temporary(lifted) / 1e6], "MB"),
        Row("compact step's temporary bytes", [temporary(thin) / 1e6], "MB"),
        Row("bytes of the weights", [ws.tree.nbytes(params) / 1e6], "MB"),
    ]


def _unit(what: str) -> tuple[str, str | None]:
    if "spread over" in what:
        return "% of a step", "<= 1"
    if what == "LIFT's step over AdamW's":
        return "x", "<= 1.1"
    return ("x", None) if " over " in what else ("s", None)
