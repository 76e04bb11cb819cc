"""Edits compose, plan on shapes, and say when they cannot carry an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws


def crop(n):
    def apply(params):
        return {"w": params["w"][:n]}

    return ws.edit.from_map(
        apply, lambda state, policy="exact": ("cropped", n, policy, state), groups=f"groups of {n}"
    )


def test_chain_is_one_after_the_other():
    params = {"w": jnp.arange(5.0)}
    flip = ws.edit.from_map(lambda params: {"w": params["w"][::-1]})
    cut = ws.chain(flip, crop(2)).apply(params)["w"]
    np.testing.assert_array_equal(cut, [4, 3])
    np.testing.assert_array_equal(ws.chain(crop(2), flip).apply(params)["w"], [1, 0])


def test_chain_is_associative_and_keeps_the_last_groups():
    a, b, c = crop(4), crop(3), crop(1)
    params = {"w": np.arange(5.0)}
    left, right = ws.chain(ws.chain(a, b), c), ws.chain(a, ws.chain(b, c))
    for edit in (left, right):
        np.testing.assert_array_equal(edit.apply(params)["w"], [0])
        assert edit.groups == "groups of 1"
        state = edit.optimizer_state("s", policy="reset")
        assert state == (
            "cropped",
            1,
            "reset",
            ("cropped", 3, "reset", ("cropped", 4, "reset", "s")),
        )


def test_the_spec_is_what_apply_gives():
    edit = ws.chain(crop(4), crop(3))
    params = {"w": jnp.zeros((5, 2), jnp.bfloat16)}
    spec = edit.spec(jax.eval_shape(lambda: params))
    assert spec == jax.eval_shape(edit.apply, params)
    assert spec["w"].shape == (3, 2)


def test_an_edit_goes_under_jit_and_vmap():
    edit = ws.chain(crop(4), crop(3))
    population = {"w": jnp.arange(10.0).reshape(2, 5)}
    got = jax.jit(jax.vmap(edit.apply))(population)["w"]
    np.testing.assert_array_equal(got, np.arange(10.0).reshape(2, 5)[:, :3])


def test_without_a_map_for_states_the_error_says_what_to_do():
    edit = ws.edit.from_map(lambda params: params)
    for state in (edit.optimizer_state, ws.chain(edit, crop(2)).optimizer_state):
        with pytest.raises(ws.WeightSpaceError, match=r"optimizer\.init\(new_params\)"):
            state({"mu": 1})
    with pytest.raises(ws.WeightSpaceError, match="at least one edit"):
        ws.chain()
