"""A thousand candidate merges as one program, and the cost of a gradient of a merge."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from benchmarks.runner import Row, timed
from wslax import merge
from wslax.merge.coefficients import mixed, of_task_vectors, start_at
from wslax.population import init

TITLE = "Searched and learned merges"
ABOUT = """
1,000 candidates of TIES (weights and densities of four experts, an MLP of about 10 thousand
parameters), each merged and evaluated on 100 samples. *One program* is `merge.search` with 1,000
candidates a turn; the *loop* calls `merge.run` for each candidate in Python, whose leaves are
compiled, and a compiled evaluation; *one jitted call* is the loop with merge and evaluation
compiled together. All are warm, and strategies draw at random. The gradient is that of a loss in
one coefficient a leaf and expert, for four experts of about 1 million parameters (an MLP) and 100
samples; a *forward pass* is the same loss without its gradient, the merge of the four experts
included, and a *model pass* is the loss of a model already merged.
"""
SAMPLES, CANDIDATES, EXPERTS = 100, 1000, 4


def apply(params: Any, x: Any) -> Any:
    for name in sorted(params)[:-1]:
        x = jnp.tanh(x @ params[name]["w"] + params[name]["b"])
    last = params[sorted(params)[-1]]
    return x @ last["w"] + last["b"]


def experts(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Four experts near a base."""

    def one(key: Any) -> Any:
        pairs = itertools.pairwise(sizes)
        keys = jr.split(key, len(sizes))
        return {
            f"layer_{i}": {"w": jr.normal(keys[i], pair) / pair[0] ** 0.5, "b": jnp.zeros(pair[1])}
            for i, pair in enumerate(pairs)
        }

    base, near = one(jr.key(0)), init(one, jr.key(1), EXPERTS)
    return jax.tree.map(lambda b, x: b[None] + 0.1 * x, base, near), base


def searched(repeats: int) -> list[Row]:
    population, base = experts((32, 96, 64, 10))
    x, labels = jr.normal(jr.key(2), (SAMPLES, 32)), jr.randint(jr.key(3), (SAMPLES,), 0, 10)

    def fitness(params: Any) -> Any:
        log = jax.nn.log_softmax(apply(params, x))
        return jnp.take_along_axis(log, labels[:, None], 1).mean()

    space = {"coef": (0.0, 1.0), "density": (0.1, 1.0)}

    def ours() -> Any:
        return merge.search(
            "ties", population, base, fitness, space=space, budget=CANDIDATES, batch=CANDIDATES,
            direction="maximize", strategy="random",
        )  # fmt: skip

    evaluate, method = jax.jit(fitness), merge.METHODS["ties"]
    found = ours()
    rows = [{n: v[i] for n, v in found.candidates.items()} for i in range(CANDIDATES)]
    run = lambda row: fitness(merge.run(method, population, base, row))
    together = jax.jit(run)

    def loop() -> list[float]:
        return [float(evaluate(merge.run(method, population, base, row))) for row in rows]

    def one_call() -> list[float]:
        return [float(together(row)) for row in rows]

    apart = max(abs(a - b) for a, b in zip(loop(), found.scores, strict=True))
    one_call()
    times = [(timed(ours), timed(loop), timed(one_call)) for _ in range(repeats)]
    return [
        Row("loop over one program", [b / a for a, b, _ in times], "x", ">= 10"),
        Row("loop of one jitted call over one program", [c / a for a, _, c in times], "x"),
        Row("one program, 1,000 candidates", [a for a, _, _ in times], "s"),
        Row("largest difference of a fitness", [apart], ""),
    ]


def learned(repeats: int) -> list[Row]:
    population, base = experts((256, 768, 768, 256))
    x = jr.normal(jr.key(2), (SAMPLES, 256))
    mixing = of_task_vectors(population, base)
    coef = start_at(0.3, mixing)

    def model(params: Any, x: Any) -> Any:
        return merge.entropy(apply(params, x))

    def value(coef: Any, mixing: Any, x: Any) -> Any:
        return model(mixed(coef, mixing), x)

    forward, slope, alone = jax.jit(value), jax.jit(jax.value_and_grad(value)), jax.jit(model)
    calls = [
        lambda: forward(coef, mixing, x), lambda: slope(coef, mixing, x), lambda: alone(base, x),
    ]  # fmt: skip
    for call in calls:
        call()
    times = [[timed(call, 20) for call in calls] for _ in range(repeats)]
    return [
        Row("gradient over forward pass", [b / a for a, b, _ in times], "x", "<= 3"),
        Row("gradient over model pass", [b / c for _, b, c in times], "x"),
        Row("gradient", [1e3 * b for _, b, _ in times], "ms"),
    ]


def measure(repeats: int) -> list[Row]:
    return searched(repeats) + learned(repeats)
