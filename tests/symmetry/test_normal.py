"""The normal form: permuted and flipped copies give the same bits, other models do not."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from zoo import ZOO

from wslax import WeightSpaceError, tree
from wslax.symmetry import canonical, infer, permute, random_permutation, same_function
from wslax.symmetry.proof import random_signs, randomised


def model(name):
    apply, params, inputs = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        return randomised(jr.key(2), params), infer(apply, params, *inputs)


@pytest.mark.parametrize(
    "name", ["mlp", "grouped", "scanned", "lstm_separate", "grouped_query_fused"]
)
def test_permuted_and_flipped_copies_give_the_same_bits(name):
    params, groups = model(name)
    order = random_permutation(jr.key(3), groups)
    moved = permute(params, groups, order, random_signs(jr.key(4), groups))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, moved)), strict=True))
    normal = jax.jit(canonical, static_argnums=1)
    for a, b in zip(
        *map(jax.tree.leaves, (normal(params, groups), normal(moved, groups))), strict=True
    ):
        assert (a == b).all()
    assert same_function(params, moved, groups)


def test_another_model_is_told_apart():
    params, groups = model("mlp")
    moved = permute(params, groups, random_permutation(jr.key(3), groups))
    other = {**moved, "b": moved["b"].at[0, 0].add(1e-2)}
    assert not same_function(params, other, groups)


def test_populations_and_half_types():
    params, groups = model("mlp")
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    permutations = [random_permutation(jr.key(i), groups) for i in range(3)]
    population = jax.tree.map(
        lambda *x: jnp.stack(x), *(permute(params, groups, p) for p in permutations)
    )
    same = jax.vmap(lambda member: same_function(params, member, groups))(population)
    assert same.all()


def test_an_optimizer_state_is_permuted_alike():
    params, groups = model("mlp")
    optimizer = optax.adam(1e-2)

    def step(params, state):
        grads = jax.grad(lambda p: sum((x**3).sum() for x in jax.tree.leaves(p)))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    permutation = random_permutation(jr.key(3), groups)
    move = lambda p: permute(p, groups, permutation)
    after, state = step(params, optimizer.init(params))
    late = move(step(after, state)[0])
    early = step(move(after), tree.map_like(move, state, params))[0]
    for a, b in zip(*map(jax.tree.leaves, (late, early)), strict=True):
        assert jnp.allclose(a, b, rtol=1e-6)


def test_trees_of_another_shape_are_refused():
    params, groups = model("mlp")
    with pytest.raises(WeightSpaceError, match="a_b"):
        same_function(params, {**params, "a_b": jnp.zeros(3)}, groups)
