"""MAP-Elites against a dictionary in numpy, and the defects that others have had."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, evolve
from wslax.evolve.cells import NOBODY, settle

KEY, N, CHILDREN = jax.random.key(0), 9, 16
GRID = evolve.grid([-1, -1], [1, 1], [3, 4])


def population(n=N):
    return {
        "kernel": jax.random.normal(jax.random.key(1), (n, 6, 5)),
        "twin": jax.random.normal(jax.random.key(1), (n, 6, 5)),
        "half": jax.random.normal(jax.random.key(2), (n, 7)).astype(jnp.bfloat16),
        "steps": 20_000_001 + jnp.arange(n, dtype=jnp.int32),
        "mask": jnp.arange(n * 3).reshape(n, 3) % 2 == 0,
        "key": jax.random.split(jax.random.key(3), n),
    }


def evaluate(members):
    fitness = -jnp.square(members["kernel"]).sum((1, 2))
    return evolve.Evaluation(fitness, descriptors=members["kernel"][:, 0, :2])


def rows(tree):
    host = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.tree.map(lambda x: np.asarray(host(x)), tree)


@functools.cache
def strategy():
    return evolve.map_elites(cells=GRID, children=CHILDREN)


@functools.cache
def run():
    """Generations by hand, with all that was seen."""
    members = population()
    state = strategy().init(KEY, members, evaluate(members))
    seen, infos, states = [(members, evaluate(members))], [], [state]
    for g in range(6):
        key = jax.random.fold_in(KEY, g)
        children, state = strategy().ask(key, state)
        told = evaluate(children)
        state, info = strategy().tell(key, state, children, told)
        seen.append((children, told))
        infos.append(info)
        states.append(state)
    return seen, infos, states


def test_each_cell_holds_the_best_that_was_seen_there_with_all_its_data():
    seen, infos, states = run()
    best, id_ = {}, 0
    for g, (members, told) in enumerate(seen):
        params, fitness, place = map(rows, (members, told.fitness, told.descriptors))
        slots = []
        for i, f in enumerate(fitness):
            cell = int(np.square(place[i] - GRID).sum(1).argmin())
            if cell not in best or f > best[cell][0]:
                best[cell] = (f, id_, jax.tree.map(lambda x, i=i: x[i], params), place[i], g, i)
            slots.append(cell)
            id_ += 1
        took = [c if best[c][4:] == (g, i) else -1 for i, c in enumerate(slots)]
        assert g == 0 or infos[g - 1].slots.tolist() == took
        now = rows(states[g].members)
        for cell in range(len(GRID)):
            if cell not in best:
                assert now.ids[cell] == NOBODY
                assert np.isnan(now.fitness[cell])
                assert np.isnan(now.descriptors[cell]).all()
                continue
            f, who, param, where, *_ = best[cell]
            assert (now.fitness[cell], now.ids[cell]) == (f, who)
            np.testing.assert_array_equal(now.descriptors[cell], where)
            held = jax.tree.map(lambda x, c=cell: x[c], now.params)
            jax.tree.map(np.testing.assert_array_equal, held, param)
    assert len(best) > 6
    np.testing.assert_allclose(evolve.coverage(states[-1].members), len(best) / len(GRID), 1e-6)
    score = sum(f + 100 for f, *_ in best.values())
    found = evolve.qd_score(states[-1].members, offset=-100)
    np.testing.assert_allclose(found, score, rtol=1e-6)


def test_parents_are_drawn_alike_from_filled_cells():
    *_, states = run()
    filled = states[-1].members.ids[~np.isnan(states[-1].members.fitness)]
    many = evolve.map_elites(cells=GRID, children=6000)
    state = states[-1]._replace(parents=jnp.zeros((6000, 2), jnp.uint32))
    _, asked = many.ask(KEY, state)
    ids, counts = np.unique(asked.parents, return_counts=True)
    assert set(ids) == set(filled.tolist())
    expected = 12000 / len(filled)
    # Chi squared of as many cells: five deviations above its mean.
    chi = (np.square(counts - expected) / expected).sum()
    assert chi < len(filled) + 5 * np.sqrt(2 * len(filled))
    first, second = np.asarray(asked.parents).T
    assert abs((first == second).mean() - 1 / len(filled)) < 5 * np.sqrt(1 / len(filled) / 6000)


def test_leaves_of_equal_shape_have_noise_of_their_own():
    """In QDax 0.5 the polynomial mutation of equal leaves was the same."""
    pair = jax.tree.map(lambda x: x[:2], population())
    child = evolve.iso_line(KEY, pair, iso=1.0, line=0.0)
    noise = [child[k] - pair[k][0] for k in ("kernel", "twin")]
    assert abs(np.corrcoef(*map(np.ravel, noise))[0, 1]) < 0.6
    assert (noise[0] != noise[1]).all()


def test_one_draw_along_the_line_for_all_leaves_of_a_child():
    rng = np.random.default_rng(0)
    pair = {k: jnp.asarray(rng.normal(size=(2, 5)), jnp.float32) for k in "ab"}
    vary = lambda member: evolve.iso_line(KEY, pair, iso=0.0, line=0.5, member=member)
    children = jax.vmap(vary)(jnp.arange(400, dtype=jnp.uint32))
    parts = [(children[k] - pair[k][None, 0]) / (pair[k][1] - pair[k][0])[None] for k in "ab"]
    parts = np.concatenate(parts, 1)
    np.testing.assert_allclose(parts, parts[:, :1].repeat(10, 1), rtol=1e-3, atol=1e-4)
    drawn = parts[:, 0] / 0.5
    assert abs(np.mean(drawn)) < 5 / 20
    assert abs(np.var(drawn) - 1) < 5 * np.sqrt(2 / 400)


def test_noise_around_the_first_parent_has_the_size_asked_for():
    pair = {"w": jnp.stack([jnp.full(4000, 7.0)] * 2)}
    noise = np.asarray(evolve.iso_line(KEY, pair, iso=0.5)["w"]) - 7
    assert abs(noise.std() / 0.5 - 1) < 5 / np.sqrt(2 * 4000)


def test_leaves_keep_dtypes_and_what_holds_no_floats_is_the_first_parents():
    pair = jax.tree.map(lambda x: x[:2], population())
    child = evolve.iso_line(KEY, pair)
    assert [x.dtype for x in jax.tree.leaves(child)] == [x.dtype for x in jax.tree.leaves(pair)]
    for leaf in ("steps", "mask", "key"):
        np.testing.assert_array_equal(rows(child[leaf]), rows(pair[leaf])[0])


def test_a_scan_types_in_x64_and_strictly():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        members = population() | {"float64": jnp.ones((N, 2), "float64")}
        state = strategy().init(KEY, members, evaluate(members))

        def generation(state, key):
            children, state = strategy().ask(key, state)
            return strategy().tell(key, state, children, evaluate(children))

        end, info = jax.lax.scan(generation, state, jax.random.split(KEY, 3))
        assert info.slots.shape == (3, CHILDREN)
        avals = lambda t: [jax.typeof(x) for x in jax.tree.leaves(t)]
        assert avals(end) == avals(state)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([np.nan, -np.inf, -1.0, 0.0, 2.0])),
        min_size=6,
        max_size=6,
    ),
    st.lists(st.sampled_from([np.nan, 0.0, 1.0]), min_size=4, max_size=4),
)
def test_several_children_in_one_cell(children, held):
    """One after another, in order, they would end in the same cells."""
    expected, who = list(held), list(range(4))
    for i, (cell, f) in enumerate(children):
        if not np.isnan(f) and (np.isnan(expected[cell]) or f > expected[cell]):
            expected[cell], who[cell] = f, 10 + i
    cell, f = (np.array(x, np.float32) for x in zip(*children, strict=True))
    ids = jnp.arange(10, 16, dtype=jnp.uint32)
    at = jnp.asarray(cell)[:, None]
    new = evolve.Members(ids.astype(jnp.float32), jnp.asarray(f), ids, descriptors=at)
    ids = jnp.arange(4, dtype=jnp.uint32)
    centroids = jnp.arange(4.0)[:, None]
    fitness = jnp.asarray(held, jnp.float32)
    now = evolve.Members(ids.astype(jnp.float32), fitness, ids, descriptors=centroids)
    end, slots = _settle(now, new, centroids)
    np.testing.assert_array_equal(end.fitness, np.float32(expected))
    assert end.ids.tolist() == end.params.tolist() == who
    born = [i for i in range(6) if 10 + i in who]
    assert [i for i, s in enumerate(slots.tolist()) if s >= 0] == born


_settle = jax.jit(settle)


def test_what_failed_enters_no_cell():
    members = population()
    told = evaluate(members)
    told = told._replace(fitness=told.fitness.at[0].set(jnp.nan))
    told = told._replace(descriptors=told.descriptors.at[1].set(jnp.nan))
    state = strategy().init(KEY, members, told)
    assert not {0, 1} & set(state.members.ids.tolist())
    # Where nobody has a cell, the first member is varied.
    none = told._replace(fitness=jnp.full(N, jnp.nan))
    children, _ = strategy().ask(KEY, strategy().init(KEY, members, none))
    assert (children["steps"] == members["steps"][0]).all()
    np.testing.assert_allclose(children["kernel"][3], members["kernel"][0], atol=0.06)


def test_a_run_that_minimises_and_a_variation_of_ones_own():
    def vary(key, pair, *, member):
        first = jax.tree.map(lambda x: x[0], pair)
        return evolve.gaussian(key, first, sigma=0.3, rate=1.0, member=member)

    def cost(members):
        w = members["w"]
        return evolve.Evaluation(jnp.square(w).sum(1), descriptors=w[:, :1])

    cells = evolve.grid([-1], [1], [8])
    end = evolve.run(
        evolve.map_elites(cells=cells, children=32, variation=vary),
        {"w": jnp.ones((4, 2))}, cost, key=0, generations=30, direction="minimize",
    )  # fmt: skip
    # The best of a cell is nearest to zero in it.
    nearest = np.square(np.abs(cells[:, 0]) - 1 / 8)
    assert (np.abs(end.members.fitness - nearest) < 0.1).all()
    assert end.history.best[-1] == end.members.fitness.min()


def test_bad_input_is_named():
    with pytest.raises(WeightSpaceError, match="grid: expected low, high and bins for each"):
        evolve.grid([0], [1, 1], [3])
    with pytest.raises(WeightSpaceError, match="low < high"):
        evolve.grid([0], [0], [3])
    with pytest.raises(WeightSpaceError, match=r"cells: expected \[cells, features\]"):
        evolve.map_elites(cells=np.zeros(3))
    with pytest.raises(WeightSpaceError, match=r"descriptors: expected \[9, 2\].*got none"):
        strategy().init(KEY, population(), jnp.zeros(N))
    wider = evolve.map_elites(cells=GRID, variation=lambda key, pair, member: pair)
    with pytest.raises(WeightSpaceError, match=r"variation gives is bfloat16\[2,7\], a parent is"):
        wider.ask(KEY, wider.init(KEY, population(), evaluate(population())))
    wrong = evolve.Evaluation(jnp.zeros(N), descriptors=jnp.zeros((N, 3)))
    with pytest.raises(WeightSpaceError, match=r"2 feature\(s\), got float32\[9,3\]"):
        strategy().init(KEY, population(), wrong)
