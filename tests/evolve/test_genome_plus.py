"""GENOME+: its parts, and the defects of the released code, one test each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import WeightSpaceError, evolve

N, D = 10, 40
KEY = jax.random.key(4)
X = {"w": jax.random.normal(jax.random.key(0), (N, D))}
# One child a generation, a copy: what is seen is the swarm.
QUIET = {"cross_rate": 0.0, "mutation_rate": 0.1, "gene_rate": 0.0}


def judge(population):
    return jnp.sin(3 * population["w"]).sum(1)


def started(x=X, **options):
    strategy = evolve.genome_plus(**options)
    return strategy, strategy.init(KEY, x, judge(x))


def after(strategy, state, generations=1):
    for g in range(generations):
        key = jax.random.fold_in(KEY, g)
        children, state = strategy.ask(key, state)
        state, info = strategy.tell(key, state, children, judge(children))
    return state, info


def test_one_ask_holds_moves_as_the_swarms_and_children_as_genomes():
    options = {"cross_rate": 1.0, "mutation_rate": 0.5, "gene_rate": 0.2}
    strategy, state = started(**options)
    children, asked = strategy.ask(KEY, state)
    pull = {"inertia": 0.2, "cognitive": 0.2, "social": 0.2, "repel": 0.1, "step": 0.5}
    swarm = evolve.model_swarm(**pull)
    moved, _ = swarm.ask(KEY, swarm.init(KEY, X, judge(X)))
    np.testing.assert_array_equal(children["w"][:N], moved["w"])
    genome = evolve.genome(sigma=0.05, **options)
    first = genome.init(KEY, X, judge(X))
    bred, told = genome.ask(KEY, first._replace(next_id=first.next_id + np.uint32(N)))
    np.testing.assert_array_equal(children["w"][N:], bred["w"])
    np.testing.assert_array_equal(asked.parents, told.parents)


def test_a_new_member_is_on_its_way_to_another():
    strategy, state = started()
    key = jax.random.fold_in(KEY, 0)
    children, state = strategy.ask(key, state)
    best = jnp.where(jnp.arange(len(children["w"])) >= N, 5.0, 1.0)
    state, info = strategy.tell(key, state, children, best)
    born = np.asarray(info.slots[N:])
    assert (born >= 0).sum() >= 1
    now = state.members
    for c, slot in enumerate(born):
        if slot >= 0:
            aims = now.velocity["w"][slot] + now.params["w"][slot]
            near = np.abs(aims[None] - children["w"][:N]).max(1)
            assert near.min() < 1e-5
            np.testing.assert_array_equal(now.own.params["w"][slot], children["w"][N + c])


def test_survivors_are_the_elite_and_those_drawn_by_fitness():
    strategy, state = started(elite=0.2)
    children, asked = strategy.ask(KEY, state)
    total = len(children["w"])
    # Who has no share of fitness is drawn only where the others are used up.
    fitness = jnp.where(jnp.arange(total) < N - 2, 1.0, 0.0)
    end, _ = strategy.tell(KEY, asked, children, fitness)
    assert sorted(end.members.fitness.tolist()) == [0, 0] + [1] * (N - 2)
    kept = np.zeros(total)
    steps = jnp.linspace(1, 2, total)
    tell = jax.jit(jax.vmap(lambda key: strategy.tell(key, asked, children, steps)[1].slots))
    kept = np.asarray(tell(jax.random.split(KEY, 400)) >= 0)
    assert kept[:, -2:].all()
    assert (kept.sum(1) == N).all()
    assert 0.05 < kept[:, 0].mean() < kept[:, -3].mean() < 0.98


def test_the_personal_best_is_not_where_the_member_is():
    """The released code moved both in place, so that the cognitive pull was 0."""
    alone = {"inertia": 0.0, "social": 0.0, "repel": 0.0, "cognitive": 1.0}
    strategy, state = started(**alone, **QUIET)
    moved = state.members._replace(params={"w": X["w"] + 1.0}, fitness=judge(X) - 9)
    children, _ = strategy.ask(KEY, state._replace(members=moved))
    np.testing.assert_allclose(children["w"][:N], X["w"] + 0.5, rtol=1e-5, atol=1e-6)
    # A worse move leaves the personal best where it was.
    strategy, state = started(**QUIET)
    children, state = strategy.ask(KEY, state)
    state, _ = strategy.tell(KEY, state, children, jnp.full(N + 1, -99.0).at[N].set(-100))
    own = {row.tobytes() for row in np.asarray(state.members.own.params["w"])}
    assert len(own & {row.tobytes() for row in np.asarray(X["w"])}) >= N - 1


def test_fitness_is_of_the_weights_it_stands_with():
    """The released code kept a moved member's old score."""
    strategy, state = started()
    state, _ = after(strategy, state, 5)
    np.testing.assert_allclose(state.members.fitness, judge(state.members.params), rtol=1e-5)
    own = state.members.own
    np.testing.assert_allclose(own.fitness, judge(own.params), rtol=1e-5)
    assert (own.fitness >= state.members.fitness).all()


@pytest.mark.parametrize("n", [5, 10])
def test_the_step_decays_once_a_generation(n):
    """The released code decayed it once a member."""
    strategy, state = started({"w": X["w"][:n]})
    state, _ = after(strategy, state, 3)
    np.testing.assert_allclose(state.step, 0.5 * 0.95**3, rtol=1e-6)


def test_coefficients_are_drawn_for_each_member_and_generation():
    """The released code drew four numbers once a run. Here they are solved for."""
    strategy, state = started(**QUIET)
    elsewhere = state.members.own._replace(params={"w": X["w"][::-1] * 2})
    state = state._replace(members=state.members._replace(own=elsewhere))
    solved = []
    for key in jax.random.split(KEY, 2):
        _, asked = strategy.ask(key, state)
        now, then = state.members, asked.members
        for i in range(N):
            x = now.params["w"][i]
            pulls = [
                now.velocity["w"][i],
                now.own.params["w"][i] - x,
                state.top[0]["w"] - x,
                x - state.bottom[0]["w"],
            ]
            found = np.linalg.lstsq(np.stack(pulls, 1), then.velocity["w"][i], rcond=None)
            solved.append(found[0])
    solved = np.array(solved)
    # The best is not pulled to itself, nor the worst from itself: one of their numbers is lost.
    f = np.tile(np.asarray(judge(X)), 2)
    solved = solved[(f != f.max()) & (f != f.min())]
    assert len(solved) == 2 * (N - 2)
    np.testing.assert_allclose(solved.sum(1), 1, rtol=1e-3)
    assert (solved > 0).all()
    assert (np.abs(solved[:, None] - solved[None]).max(2) + np.eye(len(solved))).min() > 1e-3


def test_selection_by_rank_prefers_the_best():
    """The released code's rank selection drew the worst most often."""
    fitness = jnp.array([1.0, 4.0, 2.0, 3.0])
    drawn = evolve.roulette(0, evolve.rank_shares(fitness, pressure=1.8), 4000)[:, 0]
    count = np.bincount(drawn, minlength=4)
    assert count[1] > count[3] > count[2] > count[0]


@pytest.mark.parametrize("fitness", [0.0, 2.0, -3.0, np.nan])
def test_no_elite_is_there_twice_and_equal_fitness_does_not_break_the_roulette(fitness):
    """In the released code elites could come twice, and shares of zero were 0 / 0."""
    strategy, state = started(elite=0.5)
    for g in range(3):
        key = jax.random.fold_in(KEY, g)
        children, state = strategy.ask(key, state)
        state, _ = strategy.tell(key, state, children, jnp.full(len(children["w"]), fitness))
        assert len(set(state.members.ids.tolist())) == N
        assert np.isfinite(np.asarray(children["w"])).all()


def test_merges_of_task_vectors_divide_by_weights():
    """The released TIES divided the weighted sum by the count of those that agree."""
    base = {"w": jnp.zeros(D)}
    ties = lambda key, pair, coef: ws.merge.ties(pair, base, coef=coef)
    x = {"w": jnp.abs(X["w"]).at[0, : D // 2].set(0)}
    strategy = evolve.genome_plus(crossover=ties, cross_rate=1.0, mutation_rate=0.0)
    fitness = jnp.arange(1.0, N + 1)
    children, state = strategy.ask(KEY, strategy.init(KEY, x, fitness))
    rows, f = np.asarray(x["w"]), np.asarray(fitness)
    for child, (a, b) in zip(children["w"][N:], state.parents.tolist(), strict=True):
        weight = np.where(rows[[a, b]] > 0, f[[a, b]][:, None], 0)  # who has a sign
        expected = (weight * rows[[a, b]]).sum(0) / weight.sum(0)
        np.testing.assert_allclose(child, expected, rtol=1e-5)


def test_the_best_ever_seen_is_kept_and_failures_go_home():
    strategy, state = started()
    start = float(judge(X).max())
    for g in range(4):
        key = jax.random.fold_in(KEY, g)
        children, state = strategy.ask(key, state)
        told = judge(children).at[::2].set(jnp.nan)
        state, info = strategy.tell(key, state, children, told)
        assert int(info.failed) == -(-len(told) // 2)
        assert not np.isnan(state.members.fitness).any()
        assert float(state.top[1]) >= max(start, float(jnp.nanmax(told)))


def test_what_cannot_move_or_breed_is_refused():
    with pytest.raises(WeightSpaceError, match="at least 2 members, got 1"):
        evolve.genome_plus().init(0, {"w": jnp.ones((1, 2))}, jnp.ones(1))
    with pytest.raises(WeightSpaceError, match=r"no child of 10 member\(s\)"):
        evolve.genome_plus(cross_rate=0.0, mutation_rate=0.0).init(0, X, jnp.ones(N))
    with pytest.raises(WeightSpaceError, match="gene_rate: expected a number in"):
        evolve.genome_plus(gene_rate=2.0)
    with pytest.raises(WeightSpaceError, match="repel: expected a number of at least 0"):
        evolve.genome_plus(repel=-1.0)
