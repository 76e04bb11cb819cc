"""One training step of 64 LoRA adapters at once against one adapter after another."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from benchmarks.runner import Row, peak
from wslax import adapt, nets, population, trace, tree

TITLE = "Adapters"
ABOUT = """
A training step of 64 LoRA adapters (rank 8, Adam) of one base of four layers with a head of ten
classes, 8 labelled inputs each: one compiled step of the factored model under `vmap`, against a
Python loop of 64 calls of the compiled step of one adapter, factored too, and against the same
`vmap` with each member's leaves written out first. CPU is time over all cores. Width 512 is bound
by the base's products, width 64 by calls. The limit is the base alone on all 512 inputs as one
batch, forward and backward to the inputs: products that no adapter can do without. Memory is what
the compiled step takes, against one base and 64 adapters with moments, as they come and as they go.
"""
MEMBERS, RANK, LAYERS, INPUTS, CLASSES = 64, 8, 4, 8, 10
OPTIMIZER = optax.adam(1e-3)
FIXED = {f"hidden_{i}/kernel": {} for i in range(LAYERS)}  # LoRA's is empty
ADAPTER = adapt.lora(RANK, where="hidden_*/kernel")


def timed(fn: Any) -> tuple[float, float]:
    """CPU seconds and wall time of a call, the mean of as many as take half a second."""
    calls, cpu, wall = 0, time.process_time(), time.perf_counter()
    while calls == 0 or time.perf_counter() - wall < 0.5:
        jax.block_until_ready(fn())
        calls += 1
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def step(model: Any, change: Any) -> Any:
    """A step of Adam of one adapter: `(base, train, state, batch) -> (train, state, loss)`."""

    def run(base: Any, train: Any, state: Any, batch: Any) -> Any:
        x, y = batch
        of = lambda train: nets.cross_entropy(model(change(base, train, FIXED), x), y)
        loss, gradient = jax.value_and_grad(of)(train)
        updates, state = OPTIMIZER.update(gradient, state, train)
        return optax.apply_updates(train, updates), state, loss

    return run


def things(width: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What is timed, and figures of memory."""
    net = nets.mlp(width, (width,) * LAYERS, CLASSES)
    base = net.init(jr.key(0))
    train = jax.vmap(lambda key: ADAPTER.init(key, base)[0])(jr.split(jr.key(1), MEMBERS))
    train = jax.tree.map(lambda x: x + 0.01 * jr.normal(jr.key(4), x.shape), train)
    state = jax.vmap(OPTIMIZER.init)(train)
    x = jr.normal(jr.key(2), (MEMBERS, INPUTS, width))
    batch = (x, jr.randint(jr.key(3), (MEMBERS, INPUTS), 0, CLASSES))

    one = step(trace.factored(net.apply, on_dense="error"), ADAPTER.apply)
    dense = step(net.apply, ADAPTER.fuse)
    many = lambda step: jax.jit(jax.vmap(step, in_axes=(None, 0, 0, 0)))
    together = many(one).lower(base, train, state, batch).compile()
    written = many(dense).lower(base, train, state, batch).compile()
    alone = jax.jit(one)
    apart = population.unstack((train, state, batch))

    limit = jax.jit(
        lambda base, x, y: jax.grad(lambda x: nets.cross_entropy(net.apply(base, x), y))(x)
    )
    flat = (x.reshape(-1, width), batch[1].reshape(-1))
    bytes_of = lambda program: peak(program) / 2**20
    held = (tree.nbytes(base) + tree.nbytes((train, state)) * 2) / 2**20
    return {
        "together": lambda: together(base, train, state, batch),
        "loop": lambda: [alone(base, *mine) for mine in apart],
        "written": lambda: written(base, train, state, batch),
        "limit": lambda: limit(base, *flat),
    }, {"together": bytes_of(together), "written": bytes_of(written), "held": held}


def of(width: int, repeats: int) -> list[Row]:
    calls, megabytes = things(width)
    losses = {name: calls[name]() for name in ("together", "written", "loop")}
    looped = jnp.stack([found[2] for found in losses["loop"]])
    apart = max(float(jnp.abs(losses[n][2] - looped).max()) for n in ("together", "written"))
    for fn in calls.values():
        timed(fn)
    taken = [{name: timed(fn) for name, fn in calls.items()} for _ in range(repeats)]

    def over(what: str, slow: str, fast: str, target: str | None = None) -> list[Row]:
        return [
            Row(
                f"width {width}: {what}, {clock}",
                [t[slow][i] / t[fast][i] for t in taken],
                "x",
                bound,
            )
            for i, (clock, bound) in enumerate((("CPU seconds", target), ("wall time", None)))
        ]

    return [
        *over("64 jitted steps in a loop, over one", "loop", "together", ">= 10"),
        *over("written out, over factored", "written", "together"),
        *over("factored, over the base alone", "together", "limit"),
        Row(f"width {width}: a step of 64, wall", [t["together"][1] for t in taken], "s"),
        Row(f"width {width}: memory of that step", [megabytes["together"]], "MB"),
        Row(f"width {width}: of base and adapters", [megabytes["held"]], "MB"),
        Row(f"width {width}: memory written out", [megabytes["written"]], "MB"),
        Row(f"width {width}: largest difference of a loss", [apart], ""),
    ]


def measure(repeats: int) -> list[Row]:
    return [*of(512, repeats), *of(64, repeats)]
