"""Leaves of any layout are selected from as the matrices that their roles make of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.select import lift, masks, principal_mask, scores, sparse

NET = ws.nets.transformer(11, 6, width=8, heads=2, depth=1)
TOKENS = np.arange(10).reshape(2, 5)
# How a plain matrix is stored: heads are outputs of what they read, inputs of what reads them.
ROWS = [
    ("block_0/attention/query/kernel", (8, 8)),
    ("block_0/attention/out/kernel", (8, 8)),
    ("block_0/up/kernel", (8, 32)),
]


@pytest.fixture(scope="module")
def net():
    params = NET.init(jax.random.key(0))
    return params, ws.symmetry.infer(NET.apply, params, TOKENS)


def oracle(w, rank, count):
    u, s, vt = np.linalg.svd(np.asarray(w, float))
    score = np.abs((u[:, :rank] * s[:rank]) @ vt[:rank])
    return score >= np.sort(score.ravel())[-count]


def test_heads_are_columns_or_rows_of_one_matrix(net):
    params, groups = net
    where = [name for name, _ in ROWS]
    mask = principal_mask(params, rank=2, density=0.2, groups=groups, where=where)
    mask, leaves = ws.tree.named_leaves(mask), ws.tree.named_leaves(params)
    for name, shape in ROWS:
        wanted = oracle(leaves[name].reshape(shape), 2, round(0.2 * np.prod(shape)))
        np.testing.assert_array_equal(mask[name], wanted.reshape(leaves[name].shape))


def test_the_optimizer_moves_those_and_follows_an_edit(net):
    params, groups = net
    where = "*/query/kernel"
    moving = lambda groups: lift(optax.adam(0.1), 2, density=0.2, where=where, groups=groups)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = jax.jit(moving(groups).update)(grads, moving(groups).init(params), params)
    mask = principal_mask(params, rank=2, density=0.2, where=where, groups=groups)
    jax.tree.map(lambda u, m: np.testing.assert_array_equal(u != 0, m), updates, mask)
    (heads,) = [g.id for g in groups.free if g.size == 2]
    edit = ws.grow.widen(groups, {heads: 4}, key=0)
    grown = edit.optimizer_state(state)
    fresh = jax.eval_shape(moving(edit.groups).init, edit.apply(params))
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    ws.tree.check_like(grown, fresh)


def test_copies_of_blocks_keep_their_axes():
    def groups(params):
        sites = [*enumerate(("consumed", "produced", "produced"))]
        return ws.symmetry.Groups.from_sites(
            params, [[(f"{b}/heads", axis, role)] for b in params for axis, role in sites]
        )

    params = {f"block_{i}": {"heads": jnp.ones((4, 2, 3)), "bias": jnp.ones(6)} for i in range(2)}
    moving = lambda params: lift(optax.adam(0.1), 2, lora_rank=1, groups=groups(params))
    edit = ws.grow.deepen(params, 3, method="copy")
    deep = edit.apply(params)
    grown, fresh = edit.optimizer_state(moving(params).init(params)), moving(deep).init(deep)
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    ws.tree.check_like(grown, fresh)
    assert grown.indices["block_2"]["heads"].size == 4 + 2 * 3


def test_without_groups_they_stay_and_a_warning_names_them(net):
    params, _ = net
    with pytest.warns(UserWarning, match=r"lift: .* from block_0/attention/key/kernel, .*groups="):
        state = lift(optax.adam(0.1), 2, density=0.2).init(params)
    assert state.indices["block_0"]["attention"]["query"]["kernel"] is None
    assert state.indices["block_0"]["up"]["kernel"].size == 51
    lift(optax.adam(0.1), 2, density=0.2, where="*/up/kernel").init(params)  # no warning
    with pytest.raises(ws.WeightSpaceError, match=r"query/kernel: which axes .* is open; give gro"):
        lift(optax.adam(0.1), 2, density=0.2, where="*/query/kernel").init(params)


def test_layers_of_a_scan():
    """Each layer has the budget of one matrix, by any score."""
    params = {"w": np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)}

    sites = [[("w", 1, "consumed")], [("w", 2, "produced")]]
    groups = ws.symmetry.Groups.from_sites(params, sites)
    with pytest.raises(ws.WeightSpaceError, match=r"no matrix of floats.* by groups="):
        principal_mask(params, rank=2, density=0.2)
    mask = principal_mask(params, rank=2, density=0.2, groups=groups)["w"]
    for w, mine in zip(params["w"], mask, strict=True):
        np.testing.assert_array_equal(mine, oracle(w, 2, 6))
    chosen = sparse(optax.sgd(1.0), scores.magnitude, lora_rank=1, groups=groups)
    updates, _ = chosen.update(params, chosen.init(params), params)
    mask = masks.top(scores.magnitude(params), lora_rank=1, groups=groups)["w"]
    np.testing.assert_array_equal(updates["w"] != 0, mask)
    assert mask.sum((1, 2)).tolist() == [11] * 3


def test_leaves_that_the_groups_do_not_make_matrices_are_named(net):
    params, groups = net
    assert lift(optax.adam(0.1), 2, density=0.2, groups=groups).init(params).indices[
        "embedding"
    ] == {"embedding": None}  # it looks up
    with pytest.raises(ws.WeightSpaceError, match=r"embedding: which axes .* not in the groups"):
        principal_mask(params, rank=2, density=0.2, groups=groups, where="embedding/*")
    with pytest.raises(ws.WeightSpaceError, match="key/kernel: which axes"):
        scores.principal(params["block_0"]["attention"], rank=2)
