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
classes, 1 or 8 labelled inputs each: one compiled step of the factored model under `vmap`, against
a Python loop of 64 calls of the compiled step of one adapter, factored too, and against the same
`vmap` with each member's leaves written out first. Nothing comes to the host between the calls of
the loop, and it is taken with buffers donated or without, whichever is faster; the one step donates
them. CPU is time over all cores. The base takes 68 MB at width 2048, more than a cache holds: the
loop reads it 64 times forward and 64 times backward. The limit is the base alone on all inputs as
one batch, forward and backward to the inputs: products that no adapter can do without, so the loop
over the limit is the most that any way to train them together could gain. A product with many rows
then costs what its arithmetic costs, one with a single row what reading the matrix costs, and the
two differ by less than ten on a processor: >= 10 is for small nets and few inputs. Memory is what
the compiled step takes, against one base and 64 adapters with moments.
"""
MEMBERS, RANK, LAYERS, CLASSES = 64, 8, 4, 10
SIZES = (64, 1), (64, 8), (512, 8), (2048, 1)  # width, inputs of an adapter
WRITTEN = 512  # the largest width whose 64 models are written out
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


def going(run: Any, base: Any, states: list[Any], batches: list[Any]) -> Any:
    """A call takes each state one step on, in turn; the losses."""
    states = jax.tree.map(jnp.copy, states)  # each call may give up the buffers of the last

    def call() -> Any:
        losses = []
        for i, batch in enumerate(batches):
            *states[i], loss = run(base, *states[i], batch)
            losses.append(loss)
        return losses, states

    return call


def things(width: int, inputs: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What is timed, and figures of memory."""
    net = nets.mlp(width, (width,) * LAYERS, CLASSES)
    base = net.init(jr.key(0))
    train = jax.vmap(lambda key: ADAPTER.init(key, base)[0])(jr.split(jr.key(1), MEMBERS))
    train = jax.tree.map(lambda x: x + 0.01 * jr.normal(jr.key(4), x.shape), train)
    state = [train, jax.vmap(OPTIMIZER.init)(train)]
    x = jr.normal(jr.key(2), (MEMBERS, inputs, width))
    batch = (x, jr.randint(jr.key(3), (MEMBERS, inputs), 0, CLASSES))

    one = step(trace.factored(net.apply, on_dense="error"), ADAPTER.apply)
    dense = step(net.apply, ADAPTER.fuse)
    many = lambda step: jax.jit(jax.vmap(step, in_axes=(None, 0, 0, 0)), donate_argnums=(1, 2))
    together, written = (many(s).lower(base, *state, batch).compile() for s in (one, dense))
    states, batches = population.unstack(state), population.unstack(batch)

    limit = jax.jit(
        lambda base, x, y: jax.grad(lambda x: nets.cross_entropy(net.apply(base, x), y))(x)
    )
    flat = (x.reshape(-1, width), batch[1].reshape(-1))
    calls = {
        "together": going(together, base, [state], [batch]),
        "loop": going(jax.jit(one), base, states, batches),
        "loop, donated": going(jax.jit(one, donate_argnums=(1, 2)), base, states, batches),
        "limit": lambda: limit(base, *flat),
    }
    if width <= WRITTEN:
        calls["written"] = going(written, base, [state], [batch])
    megabytes = {"together": peak(together), "written": peak(written)}
    megabytes["held"] = tree.nbytes((base, state))
    return calls, {name: size / 2**20 for name, size in megabytes.items()}


def of(width: int, inputs: int, repeats: int) -> list[Row]:
    calls, megabytes = things(width, inputs)
    size = f"width {width}, inputs {inputs}"
    losses = {name: jnp.stack(fn()[0]).ravel() for name, fn in calls.items() if name != "limit"}
    apart = max(float(jnp.abs(loss - losses["loop"]).max()) for loss in losses.values())
    for fn in calls.values():
        timed(fn)
    taken = [{name: timed(fn) for name, fn in calls.items()} for _ in range(repeats)]
    for times in taken:
        times["loop"] = tuple(map(min, times["loop"], times.pop("loop, donated")))

    def over(what: str, slow: str, fast: str, target: str | None = None) -> list[Row]:
        return [
            Row(f"{size}: {what}, {clock}", [t[slow][i] / t[fast][i] for t in taken], "x", bound)
            for i, (clock, bound) in enumerate((("CPU seconds", target), ("wall time", None)))
        ]

    return [
        *over("64 jitted steps in a loop, over one", "loop", "together", ">= 10"),
        *over("the same loop, over the limit", "loop", "limit"),
        *over("one step, over the limit", "together", "limit"),
        *(over("written out, over factored", "written", "together") if "written" in calls else ()),
        Row(f"{size}: a step of 64, wall", [t["together"][1] for t in taken], "s"),
        Row(f"{size}: memory of that step", [megabytes["together"]], "MB"),
        Row(f"{size}: of base and adapters", [megabytes["held"]], "MB"),
        Row(f"{size}: memory written out", [megabytes["written"]], "MB"),
        Row(f"{size}: largest difference of a loss", [apart], ""),
    ]


def measure(repeats: int) -> list[Row]:
    return [row for size in SIZES for row in of(*size, repeats)]
