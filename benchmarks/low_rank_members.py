"""A generation of low-rank members against members written out, and small nets as one program."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from benchmarks.runner import Row
from wslax import evolve, nets, population, trace

TITLE = "Members of low rank"
ABOUT = """
A forward pass of the 1,000 children of `evolve.low_rank_es` (rank 1) around one base of 1.0 M
float32 parameters (four layers of 512 x 512, with biases), one input each, as in a step of a task
of control: `trace.factored` of the model under `vmap`, against the same model on children written
out one after another in a compiled loop (all at once they would be 4 GB), and against a Python loop
that writes each out and runs it, by two jitted calls. The limit is the base alone on all inputs as
one batch: products of the same size, without the members' own terms. And 64 small nets (16-32-4) on
32 inputs by one `vmap`, against a Python loop of jitted calls of one net each. All compiled, in
turn, in one run; CPU is time over all cores.
"""
MEMBERS, WIDTH, LAYERS = 1000, 512, 4
NETS, INPUTS = 64, 32


def apply(params: dict[str, Any], x: Any) -> Any:
    for i in range(LAYERS):
        x = jnp.tanh(x @ params[f"kernel{i}"] + params[f"bias{i}"][None])
    return x


def centre() -> dict[str, Any]:
    params = {f"bias{i}": jnp.zeros((1, WIDTH)) for i in range(LAYERS)}
    for i in range(LAYERS):
        params[f"kernel{i}"] = jr.normal(jr.key(i), (1, WIDTH, WIDTH)) / WIDTH**0.5
    return params


def timed(fn: Any) -> tuple[float, float]:
    """CPU seconds and wall time of a call, the mean of as many as take a tenth of a second."""
    calls, cpu, wall = 0, time.process_time(), time.perf_counter()
    while calls == 0 or time.perf_counter() - wall < 0.1:
        jax.block_until_ready(fn())
        calls += 1
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def of_low_rank() -> dict[str, Any]:
    strategy = evolve.low_rank_es(n=MEMBERS)
    state = strategy.init(jr.key(0), centre(), jnp.zeros(1))
    children, _ = strategy.ask(jr.key(0), state)
    x = jr.normal(jr.key(1), (MEMBERS, 1, WIDTH))
    axes = trace.over_members(children, dense=0)
    model = trace.factored(apply, on_dense="error")
    is_thin = lambda leaf: isinstance(leaf, trace.LowRank)

    def member(children: Any, i: Any) -> Any:
        """One child written out."""
        each = lambda leaf, axis: leaf if axis is None else leaf[i]
        mine = jax.tree.map(each, children, axes, is_leaf=lambda leaf: leaf is None)
        return jax.tree.map(lambda y: y.dense() if is_thin(y) else y, mine, is_leaf=is_thin)

    ours = jax.jit(jax.vmap(model, in_axes=(axes, 0)))
    one_by_one = jax.jit(
        lambda children, x: jax.lax.map(
            lambda i: apply(member(children, i), x[i]), jnp.arange(MEMBERS)
        )
    )
    write, run = jax.jit(member), jax.jit(apply)
    base = {name: leaf[0] for name, leaf in centre().items()}
    return {
        "factored": lambda: ours(children, x),
        "base": lambda: run(base, x[:, 0]),
        "written": lambda: one_by_one(children, x),
        "loop": lambda: [run(write(children, i), x[i]) for i in range(MEMBERS)],
    }


def of_small_nets() -> dict[str, Any]:
    net = nets.mlp(16, (32,), 4)
    members = population.init(net.init, key=0, n=NETS)
    apart = population.unstack(members)
    x, y = jr.normal(jr.key(1), (INPUTS, 16)), jr.randint(jr.key(2), (INPUTS,), 0, 4)

    def accuracy(params: Any) -> Any:
        return (net.apply(params, x).argmax(-1) == y).mean()

    together, alone = jax.jit(jax.vmap(accuracy)), jax.jit(accuracy)
    return {"vmap": lambda: together(members), "nets": lambda: [alone(p) for p in apart]}


def measure(repeats: int) -> list[Row]:
    things = {**of_low_rank(), **of_small_nets()}
    far = jnp.abs(things["factored"]() - things["written"]()).max()
    for fn in things.values():
        timed(fn)
    taken = [{name: timed(fn) for name, fn in things.items()} for _ in range(repeats)]

    def over(what: str, slow: str, fast: str, target: str | None = None) -> list[Row]:
        return [
            Row(f"{what}, {clock}", [t[slow][i] / t[fast][i] for t in taken], "x", target)
            for i, clock in enumerate(("CPU", "wall"))
        ]

    return [
        *over("written out in a compiled loop, over factored", "written", "factored", ">= 10"),
        *over("written out in a Python loop, over factored", "loop", "factored"),
        *over("factored, over the base on all inputs as one batch", "factored", "base"),
        Row("factored, 1,000 members, wall", [t["factored"][1] for t in taken], "s"),
        *over("64 jitted calls, over one program", "nets", "vmap", ">= 4"),
        Row("64 nets as one program, wall", [t["vmap"][1] for t in taken], "s"),
        Row("largest difference of an output", [float(far)], ""),
    ]
