"""What every method keeps, whatever it does: driven by the registries, so new ones come in alone.

A family turns each registry entry into a `Case`: the method as one function of arrays, with values
for its parameters taken from what it declares. Foreign code aside, all runs are under strict dtype
promotion.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax.io.writer import write_tensors
from wslax.merge.files import config, stream
from wslax.merge.files.plan import make_plan
from wslax.merge.method import Kth

DTYPES = ["float16", "bfloat16", "float32", "float64"]
KEYS = jax.random.split(jax.random.key(7), 2)


class Case(NamedTuple):
    """A method as one function of arrays, and what it promises.

    Attributes:
      name: family and method.
      run: `(key, model, numbers) -> tree`.
      model: `(seed, dtype) -> ` what it takes.
      like: `(seed, dtype) -> ` a tree with the shapes, dtypes and weak types of the result.
      numbers: hyper-parameters that may change without compiling, two values each.
      identity: `() -> (result, what it must equal)`.
      chunked: `folder -> (results that must agree, whether in every bit)`.
      permuted: `() -> (result, result of permuted members, whether declared to agree)`, or None
        for a method that sees one member alone.
    """

    name: str
    run: Callable[[Any, Any, Any], Any]
    model: Callable[..., Any]
    like: Callable[..., Any]
    numbers: dict[str, tuple[Any, Any]]
    identity: Callable[[], tuple[Any, Any]]
    chunked: Callable[[Any], tuple[list[Any], bool]]
    permuted: Callable[[], tuple[Any, Any, bool]] | None


def params(seed=0, dtype="float32", hidden=4):
    """One model with a leaf of every kind; the biases are weakly typed."""
    rng = np.random.default_rng(seed)

    def dense(a, b):
        kernel = jnp.asarray(rng.normal(size=(a, b)).astype("float32"), dtype)
        return {"kernel": kernel, "bias": jnp.full((b,), float(rng.normal()))}

    whole = {"step": jnp.int32(3), "on": jnp.array([True, False]), "key": jax.random.key(1)}
    return {"hidden": dense(3, hidden), "out": dense(hidden, 2), **whole}


def members(n, seed=0, dtype="float32"):
    return ws.population.stack([params(100 * seed + i, dtype) for i in range(n)])


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


def same(a, b, exact):
    if not ws.tree.is_float(a):
        is_key = jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
        return bool((jax.random.key_data(a) == jax.random.key_data(b) if is_key else a == b).all())
    step = 0.0 if exact else 4 * float(jnp.finfo(a.dtype).eps)
    return np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=step, atol=step)


def close(tree, other, exact=False):
    """Equal avals, and equal up to the rounding of their dtypes, or in every bit."""
    assert avals(tree) == avals(other)
    rows = zip(*map(jax.tree.leaves, (tree, other)), strict=True)
    return all(same(*row, exact) for row in rows)


def either(case, which):
    return {name: pair[which] for name, pair in case.numbers.items()}


# Merging: `merge.METHODS`.


def values(param, n, seed):
    """Legal numbers for a declared parameter, exact in every dtype."""
    low, high = param.low or 0.0, 1.0 if param.high is None else param.high
    share = np.random.default_rng(seed).permutation(np.linspace(0.25, 0.75, 5))
    found = np.float32(low + (high - low) * share)
    return found[:n] if param.per == "member" else found[0]


def merge_case(method):
    n = min(max(3, method.least), method.most or 3)
    numeric = [p for p in method.params if p.kind is float]
    numbers = {p.name: (values(p, n, 1), values(p, n, 2)) for p in numeric}
    function = getattr(ws.merge, method.name)

    def model(seed=0, dtype="float32"):
        found = {"population": members(n, seed, dtype), "ids": np.arange(n, dtype=np.uint32)}
        return found | {"base": params(100 * seed + n, dtype)}

    def run(key, model, numbers):
        random = {"key": key, "ids": model["ids"]} if method.random else {}
        return function(model["population"], model["base"], **random, **numbers)

    def identity():
        """N copies of one model give that model back, at the declared defaults."""
        one = params(5)
        copies = ws.population.stack([one] * n)
        given = {p.name: 0.5 for p in method.params if p.default is None}
        return function(copies, one, **({"key": 0} if method.random else {}), **given), one

    def permuted():
        """Members with all that is theirs in another order."""
        order = np.roll(np.arange(n), 1)
        here, mine = model(), {p.name for p in numeric if p.per == "member"}
        there = here | {
            "population": ws.population.take(here["population"], order), "ids": here["ids"][order]
        }  # fmt: skip
        before = {name: pair[0] for name, pair in numbers.items()}
        after = {k: v[order] if k in mine else v for k, v in before.items()}
        agree = method.base != "first"
        return run(KEYS[0], here, before), run(KEYS[0], there, after), agree

    def chunked(folder):
        """In memory, and from disk in chunks of every kind."""
        floats = model(dtype="bfloat16")
        floats = {k: _floats(v) for k, v in floats.items() if k != "ids"}
        rows = ws.population.unstack(floats["population"])
        for name, tree in [
            ("base", floats["base"]),
            *((f"{i}", row) for i, row in enumerate(rows)),
        ]:
            ws.io.save(tree, folder / f"{name}.safetensors")
        recipe = _recipe(method, folder, n, {k: pair[0] for k, pair in numbers.items()})
        memory = {"ids": np.arange(n, dtype=np.uint32), **floats}
        here = run(5, memory, {k: pair[0] for k, pair in numbers.items()})
        out = [_streamed(recipe, folder, chunk, here) for chunk in (2, 7, None)]
        flags = {p.name: p.default for p in method.params if p.kind is bool}
        exact = all(isinstance(r, Kth) for r in method.rounds(flags).values())
        assert close(out[0], here)
        return out, exact

    return Case(
        f"merge.{method.name}", run, model, params, numbers, identity, chunked, permuted
    )  # fmt: skip


def _floats(tree):
    return {k: tree[k] for k in ("hidden", "out")}


def _recipe(method, folder, n, numbers):
    words = {p.name: (p.word, p.per) for p in method.params}
    of_members = [{} for _ in range(n)]
    shared = {}
    for name, value in numbers.items():
        word, per = words[name]
        for i, row in enumerate(of_members if per == "member" else [shared]):
            row[word] = float(np.atleast_1d(value)[i])
    based = method.base in ("required", "optional")
    base = {"base_model": f"{folder}/base.safetensors"} if based else {}
    models = [
        {"model": f"{folder}/{i}.safetensors", "parameters": row}
        for i, row in enumerate(of_members)
    ]
    return {"merge_method": method.name, "models": models, "parameters": shared, **base}


def _streamed(recipe, folder, chunk, like):
    plan = make_plan(config.parse_recipe(recipe))
    target = folder / f"by-{chunk}.safetensors"
    with write_tensors(target, {job.name: job.spec for job in plan.jobs}) as (writer, _):
        stream.execute(plan, writer, seed=5, chunk=chunk)
    return jax.tree.map(ws.tree.cast_like, ws.io.load(target, like=like), like)


# Growing: `grow.METHODS`.


def grow_case(method):
    def widened(key, model, size):
        groups = ws.symmetry.feed_forward(model, ["hidden", "out"])
        return ws.grow.widen(groups, {0: size}, method=method.name, key=key).apply(model)

    def run(key, model, numbers):
        return widened(key, model, 8)

    def like(seed=0, dtype="float32"):
        return params(seed, dtype, hidden=8)

    def identity():
        return widened(3, params(), 4), params()

    def chunked(folder):
        """The key on the host, and traced."""
        key = jax.random.key(9)
        # Sums (the size of fresh numbers, shares) are rounded in another order once compiled.
        exact = method.name in ("net2wider", "hypercloning", "fpi")
        return [run(key, params(), {}), jax.jit(run)(key, params(), {})], exact

    return Case(f"grow.{method.name}", run, params, like, {}, identity, chunked, None)


# Evolving: `evolve.STRATEGIES`.


OPTIONS = {
    "genetic_algorithm": {"mutate": functools.partial(ws.evolve.gaussian, sigma=0.0, rate=0.1)},
    "population_based_training": {
        "train": lambda key, member: member, "hyper": "hidden/bias", "factors": (1.0, 1.0)
    },
}  # fmt: skip


def evolve_case(name, maker):
    make = functools.partial(maker, **OPTIONS.get(name, {}))

    def fitness(population):
        return population["hidden"]["kernel"].astype("float32").sum((1, 2))

    def first(population):
        return make().init(KEYS[0], population, fitness(population))

    def generation(key, state, strategy):
        children, state = strategy.ask(key, state)
        return strategy.tell(key, state, children, fitness(children))[0]

    def run(key, model, numbers):
        state = first(model)._replace(**numbers)
        return generation(key, state, make()).members.params

    def model(seed=0, dtype="float32"):
        return members(8, seed, dtype)

    hyper = {k: v for k, v in first(model())._asdict().items() if getattr(v, "shape", None) == ()}
    numbers = {k: (v, 2 * v) for k, v in hyper.items() if ws.tree.is_float(v)}

    def identity():
        """Steps of size zero among copies of one model."""
        copies = ws.population.stack([params(5)] * 8)
        return run(KEYS[0], copies, {k: jnp.zeros_like(v[0]) for k, v in numbers.items()}), copies

    def chunked(folder):
        takes = "chunk" in inspect.signature(make).parameters
        options = [{"chunk": c} for c in (1, 3, 8)] if takes else [{}, {}]
        return [generation(KEYS[0], first(model()), make(**o)) for o in options], True

    def permuted():
        """Members with fitness and ids in another order: the same ones survive."""
        order = np.roll(np.arange(8), 3)
        here = first(model())
        there = here._replace(members=jax.tree.map(lambda x: x[order], here.members))
        ends = [generation(KEYS[0], state, make()).members for state in (here, there)]
        return *(jax.tree.map(lambda x, e=e: x[jnp.argsort(e.ids)], e) for e in ends), True

    return Case(f"evolve.{name}", run, model, model, numbers, identity, chunked, permuted)


def centre_case(name, make):
    """A strategy that moves one member."""

    def fitness(children):
        return children["out"]["bias"].astype("float32").sum(1)

    def first(model):
        return make().init(KEYS[0], model, jnp.zeros(1))

    def run(key, model, numbers, fitness=fitness):
        state = first(model)._replace(**numbers)
        children, state = make().ask(key, state)
        return make().tell(key, state, children, fitness(children))[0].members.params

    def model(seed=0, dtype="float32"):
        return members(1, seed, dtype)

    sigma = first(model()).sigma
    numbers = {"sigma": (sigma, 2 * sigma)}

    def identity():
        """Children of equal fitness move nothing."""
        return run(KEYS[0], model(), {}, lambda children: 0 * fitness(children)), model()

    def chunked(folder):
        """Compiled apart and as one."""
        return [step(KEYS[0], model(), {}) for step in (run, jax.jit(run))], False

    return Case(f"evolve.{name}", run, model, model, numbers, identity, chunked, None)


# `map_elites` has no default cells: it is held by tests of its own.
OF_ONE, OF_CELLS = ("low_rank_es", "open_es"), ("map_elites",)


# Selecting: one function so far.


def select_case():
    def run(key, model, numbers):
        return ws.select.principal_mask(model, rank=2, density=0.5, key=key)

    def like(seed=0, dtype="float32"):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, bool), params(seed, dtype))

    def identity():
        """All of every matrix, nothing of what is none."""
        found = ws.select.principal_mask(params(), rank=1, density=1.0)
        return found, ws.tree.map_named(
            lambda name, x: jnp.full(x.shape, name.endswith("kernel")), params()
        )

    def chunked(folder):
        """The key on the host, and traced."""
        return [run(9, params(), {}), jax.jit(run)(jax.random.key(9), params(), {})], True

    return Case("select.principal_mask", run, params, like, {}, identity, chunked, None)


CASES = [
    *map(merge_case, ws.merge.METHODS.values()),
    *map(grow_case, ws.grow.METHODS.values()),
    *(
        (centre_case if name in OF_ONE else evolve_case)(name, make)
        for name, make in ws.evolve.STRATEGIES.items()
        if name not in OF_CELLS
    ),
    select_case(),
]
every = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def traces():
    """The functions traced so far, counted by JAX itself."""
    seen = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/jaxpr_trace_duration":
            seen.append(about)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@every
def test_a_batch_is_a_loop(case):
    """`vmap` over models, keys and hyper-parameters."""
    rows = [(KEYS[i], case.model(i), either(case, i)) for i in range(2)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    got = jax.jit(jax.vmap(case.run))(*batch)
    for i, row in enumerate(rows):
        assert close(jax.tree.map(lambda x, i=i: x[i], got), case.run(*row))


@every
def test_a_sweep_traces_once(case, traces):
    """Other numbers, another key and other weights compile nothing, in `jit` and outside."""
    for run in (jax.jit(case.run), case.run):
        run(KEYS[0], case.model(0), either(case, 0))
        other = KEYS[1], case.model(1), either(case, 1)
        before = len(traces)
        run(*other)
        assert traces[before:] == []


@every
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_leaves_keep_shape_dtype_and_weak_type(case, x64):
    with jax.enable_x64(x64):
        for dtype in DTYPES if x64 else DTYPES[:-1]:
            numbers = jax.tree.map(np.asarray if x64 else jnp.asarray, either(case, 0))
            got = jax.eval_shape(case.run, KEYS[0], case.model(0, dtype), numbers)
            assert avals(got) == avals(case.like(0, dtype))


@every
def test_the_identity(case):
    assert close(*case.identity())


@every
def test_chunks_and_keys_alone_decide_nothing(case, tmp_path):
    results, exact = case.chunked(tmp_path)
    for other in results[1:]:
        assert close(other, results[0], exact)


@pytest.mark.parametrize("case", [case for case in CASES if case.permuted], ids=lambda c: c.name)
def test_the_order_of_members_counts_where_declared(case):
    got, other, agree = case.permuted()
    assert close(got, other) == agree
