"""Islands: apart between migrations, a ring at them, and the same over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from wslax import WeightSpaceError, evolve, population

N, ISLANDS, EVERY = 32, 4, 2
INNER = evolve.genome(mutation_rate=0.5, gene_rate=0.2)
STRATEGY = evolve.islands(INNER, ISLANDS, every=EVERY, migrants=2)


def members():
    return {"w": jax.random.normal(jax.random.key(0), (N, 6))}


def score(population):
    return -jnp.round(population["w"] * 64).astype(jnp.int32).sum(1) / 64


run = functools.partial(
    evolve.run, STRATEGY, evaluate=score, key=3, generations=4, direction="maximize"
)


@pytest.fixture(scope="module")
def steps():
    """State, the children's Info and the state afterwards of four generations."""
    state = STRATEGY.init(jax.random.key(3), members(), score(members()))
    found = []
    for g in range(4):
        key = jax.random.fold_in(jax.random.key(3), g)
        children, asked = STRATEGY.ask(key, state)
        after, info = STRATEGY.tell(key, asked, children, score(children))
        found.append((state, info, after))
        state = after
    return found


def test_between_migrations_an_island_is_a_run_of_its_own(steps):
    """One generation of the strategy alone, under the island's key: the same members."""
    state, _, after = steps[0]
    key = jax.random.fold_in(jax.random.key(3), 0)
    for i in range(ISLANDS):
        own = jax.random.fold_in(key, i)
        one = jax.tree.map(lambda x, i=i: x[i], state.each)
        children, one = INNER.ask(own, one)
        one, _ = INNER.tell(own, one, children, score(children))
        np.testing.assert_array_equal(one.members.fitness, after.each.members.fitness[i])
        np.testing.assert_array_equal(one.members.params["w"], after.each.members.params["w"][i])


def test_migrants_are_the_best_of_the_island_before(steps):
    for g, (_, info, after) in enumerate(steps):
        per = len(info.ids) // ISLANDS
        rows = np.arange(len(info.ids)).reshape(ISLANDS, per)[:, -2:]
        slots = np.asarray(info.slots)[rows]
        if (g + 1) % EVERY:
            assert (slots == -1).all()
            continue
        now = after.members
        np.testing.assert_array_equal(
            slots // (N // ISLANDS), np.repeat(range(ISLANDS), 2).reshape(-1, 2)
        )
        np.testing.assert_array_equal(now.ids[slots], np.asarray(info.ids)[rows])
        where = {int(id_): slot for slot, id_ in enumerate(np.asarray(now.ids))}
        for i in range(ISLANDS):
            came = np.sort(np.asarray(now.fitness)[slots[i]])
            np.testing.assert_array_equal(came, np.sort(np.asarray(info.fitness)[rows[i]]))
            homes = [where[int(p)] for p in np.asarray(info.parents)[rows[i], 0]]
            before = (i - 1) % ISLANDS
            assert {slot // (N // ISLANDS) for slot in homes} == {before}
            np.testing.assert_array_equal(
                now.params["w"][slots[i]], now.params["w"][np.array(homes)]
            )
            residents = np.delete(
                np.arange(N).reshape(ISLANDS, -1)[before], slots[before] % (N // ISLANDS)
            )
            best = np.sort(np.asarray(now.fitness)[residents])[-2:]
            np.testing.assert_array_equal(came, best)


def test_ids_are_unique_and_every_datum_stays_with_its_member(steps):
    seen = set(range(N))
    for state, info, after in steps:
        known = set(info.ids.tolist())
        assert len(known) == len(info.ids)
        assert not seen & known
        assert set(info.parents.ravel().tolist()) <= seen | known
        seen |= known
        now = after.members
        assert len(set(now.ids.tolist())) == N
        np.testing.assert_array_equal(now.fitness, score(now.params))
        born = np.flatnonzero(np.asarray(info.slots) >= 0)
        np.testing.assert_array_equal(now.ids[np.asarray(info.slots)[born]], info.ids[born])
        stayed = np.setdiff1d(np.arange(N), np.asarray(info.slots))
        np.testing.assert_array_equal(now.ids[stayed], state.members.ids[stayed])
        assert float(info.best) == float(np.max(now.fitness))


def test_islands_over_devices_end_in_the_same_bits():
    mesh = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
    one, four = run(members()), run(population.shard(members(), mesh))
    jax.tree.map(np.testing.assert_array_equal, four.members, one.members)
    jax.tree.map(np.testing.assert_array_equal, four.history, one.history)


def test_what_cannot_be_cut_is_named():
    with pytest.raises(WeightSpaceError, match="4 islands of at least 4 members, got 12"):
        STRATEGY.init(0, {"w": jnp.zeros((12, 2))}, jnp.zeros(12))
    with pytest.raises(WeightSpaceError, match="every: expected at least 1, got 0"):
        evolve.islands(INNER, 2, every=0)
    with pytest.raises(WeightSpaceError, match=r"one number a member, \[32\]"):
        STRATEGY.init(0, members(), jnp.zeros(3))
