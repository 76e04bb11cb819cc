"""A population on disk comes back bit by bit, or says what is wrong with it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, population

LIKE = {"w": jnp.zeros((2, 3), jnp.bfloat16), "step": jnp.int32(0), "key": jax.random.key(0)}


@pytest.fixture
def saved(tmp_path):
    members = {
        "w": jnp.arange(18, dtype=jnp.bfloat16).reshape(3, 2, 3),
        "step": jnp.arange(3, dtype=jnp.int32),
        "key": jax.random.split(jax.random.key(1), 3),
    }
    population.save(members, tmp_path / "experts")
    return members, tmp_path / "experts"


def test_what_was_saved_comes_back(saved):
    members, folder = saved
    for like in (LIKE, jax.eval_shape(lambda: LIKE)):
        got = population.load(folder, like)
        assert (jax.random.key_data(got["key"]) == jax.random.key_data(members["key"])).all()
        for name in ("w", "step"):
            assert got[name].dtype == members[name].dtype
            np.testing.assert_array_equal(got[name], members[name])
    assert len(list(folder.glob("member-*.safetensors"))) == 3


def test_training_state_survives(trained, tmp_path):
    population.save(trained.after, tmp_path / "run")
    got = population.load(tmp_path / "run", population.member(trained.before, 0))
    jax.tree.map(np.testing.assert_array_equal, got, trained.after)


def test_a_folder_in_use_is_refused_and_kept(saved):
    members, folder = saved
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(WeightSpaceError, match="not empty"):
        population.save(members, folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def broken_json(folder):
    (folder / "population.json").write_text("{")


def no_list(folder):
    (folder / "population.json").write_text(json.dumps({"members": 3}))


def no_members(folder):
    (folder / "population.json").write_text(json.dumps({"members": []}))


def lost_member(folder):
    (folder / "member-00001.safetensors").unlink()


def short_member(folder):
    path = folder / "member-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (broken_json, "not an index of members"),
        (no_list, "not an index of members"),
        (no_members, "at least one member"),
        (lost_member, "member-00001"),
        (short_member, "member-00002"),
    ],
)
def test_damage_is_named(saved, harm, message):
    harm(saved[1])
    with pytest.raises(WeightSpaceError, match=message):
        population.load(saved[1], LIKE)


def test_a_member_that_does_not_fit_is_named(saved):
    with pytest.raises(WeightSpaceError, match="w"):
        population.load(saved[1], {**LIKE, "w": jnp.zeros((2, 4), jnp.bfloat16)})
