"""The folder of a run over devices: shards, kills at any moment, other devices, damage."""

import json
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from wslax import WeightSpaceError, evolve, io, population, tree
from wslax.evolve.generation import duel
from wslax.evolve.strategy import members as founded

N = 16
MESHES = {
    n: jax.make_mesh((n,), ("population",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
    for n in (1, 2, 4)
}


def members():
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "layers.0/kernel": jax.random.normal(keys[0], (N, 6, 5)),
        "half": jax.random.normal(keys[0], (N, 7)).astype(jnp.bfloat16),
        "nothing": jnp.zeros((N, 0)),
        "key": jax.random.split(keys[1], N),
    }


def score(population):
    """Exact in any order of sums, so that choices are the same on any number of devices."""
    return -jnp.round(population["layers.0/kernel"] * 64).astype(jnp.int32).sum((1, 2)) / 64


class State(NamedTuple):
    members: Any
    parents: Any
    next_id: Any


def init(key, population, evaluation):
    return State(founded(population, evaluation), jnp.zeros((N, 2), jnp.uint32), jnp.uint32(N))


def ask(key, state):
    """One child a member, moved by noise: what compiles soon."""

    def moved(x):
        return x + jax.random.normal(key, x.shape, x.dtype) if tree.is_float(x) else x

    ids = state.members.ids
    return jax.tree.map(moved, state.members.params), state._replace(
        parents=jnp.stack([ids] * 2, 1)
    )


def tell(key, state, children, evaluation):
    return duel(jnp.greater, state, children, evaluation)


WALK = evolve.Strategy(init, ask, tell)


def go(folder=None, devices=4, generations=3, strategy=WALK, **options):
    placed = population.shard(members(), MESHES[devices])
    settings = {"key": 3, "generations": generations, "direction": "maximize"} | options
    return evolve.run(strategy, placed, score, folder=folder, **settings)


@pytest.fixture(scope="module")
def whole():
    return go()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run over four devices after two generations."""
    folder = tmp_path_factory.mktemp("run") / "run"
    go(folder, generations=2)
    return folder


@pytest.fixture
def held(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def same(a, b):
    a, b = population.host((a, b))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_device_writes_its_own_part(begun):
    assert names(begun) == ["evolution-2.orbax", "evolution.safetensors"]
    assert not any(name.startswith("state") for name in io.load(begun / "evolution.safetensors"))
    tree = json.loads((begun / "evolution-2.orbax" / "_METADATA").read_text())["tree_metadata"]
    written = {name: leaf["value_metadata"].get("write_shape") for name, leaf in tree.items()}
    (kernel,) = [shape for name, shape in written.items() if "kernel" in name]
    assert kernel == [N // 4, 6, 5]


@pytest.mark.parametrize("devices", MESHES)
def test_it_goes_on_over_any_number_of_devices(held, whole, devices):
    end = go(held, devices, resume=True)
    same(end.members, whole.members)
    same(end.history, whole.history)
    kernel = end.members.params["layers.0/kernel"]
    assert len(kernel.sharding.device_set) == devices
    assert kernel.addressable_shards[0].data.shape == (N // devices, 6, 5)
    assert names(held) == ["evolution-3.orbax"] * (devices > 1) + ["evolution.safetensors"]
    # And from what that left, be it shards or one file, over four devices again.
    same(go(held, resume=True).members, whole.members)


class Killed(Exception):
    pass


def kill(*arguments, **options):
    raise Killed


@pytest.mark.parametrize("generation", [0, 3])
@pytest.mark.parametrize(
    ("module", "name"),
    [(io, "save_orbax"), (io.atomic, "sync"), (io, "save"), (io.atomic, "remove")],
)
def test_a_kill_at_any_step_of_a_write_leaves_the_last_generation(
    held, whole, monkeypatch, tmp_path, module, name, generation
):
    """A write is shards, their sync, the file, removal of the old: a kill comes instead of each."""
    folder = held if generation else tmp_path / "new"
    if name == "remove" and generation == 0:
        return  # nothing is old
    real = getattr(module, name)
    old = lambda path: real(path) if path.name == f"evolution-{generation}.orbax" else kill()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, old if name == "remove" else kill)
        with pytest.raises(Killed):
            go(folder, generations=generation, resume=True)
    (folder / f"evolution-{generation}.orbax.orbax-checkpoint-tmp").mkdir(parents=True)
    end = go(folder, resume=True)
    same(end.members, whole.members)
    same(end.history, whole.history)
    assert names(folder) == ["evolution-3.orbax", "evolution.safetensors"]


def note(**changed):
    """Write other notes than the run's."""

    def damage(folder):
        file = folder / "evolution.safetensors"
        told = json.loads(io.open_tensors(file).metadata["run"]) | changed
        parts = {name: array.copy() for name, array in io.load(file).items()}
        io.save(parts, file, metadata={"run": json.dumps(told)})

    return damage


def lose(part):
    """Empty files of the shards, or take the whole away."""

    def damage(folder):
        if part is None:
            return shutil.rmtree(folder / "evolution-2.orbax")
        for path in (folder / "evolution-2.orbax").glob(part):
            path.write_bytes(b"")

    return damage


def lose_history(folder):
    file = folder / "evolution.safetensors"
    kept = {k: a.copy() for k, a in io.load(file).items() if not k.startswith("history/m")}
    io.save(kept, file, metadata=io.open_tensors(file).metadata)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose(None), "evolution-2.orbax: no such folder"),
        (lose("_METADATA"), "not a whole Orbax checkpoint"),
        (note(generation=1), "evolution-1.orbax: no such folder"),
        (note(generation="2/../../x"), "not the checkpoint of a run"),
        (note(generation=None), "not the checkpoint of a run"),
        (note(first=None), "notes do not say"),
        (note(first={"fitness": [[-1], "float32"]}), "notes do not say"),
        (note(first={"height": [[16], "float32"]}), "notes do not say"),
        (lose_history, "history is not whole"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(held, damage, says):
    damage(held)
    with pytest.raises(WeightSpaceError, match=says):
        go(held, resume=True)


def test_shards_of_another_run_are_refused(held):
    with pytest.raises(WeightSpaceError, match="was begun with key"):
        go(held, resume=True, key=4)
    with pytest.raises(WeightSpaceError, match=r"evolution-2\.orbax"):
        go(held, resume=True, strategy=evolve.model_swarm())
    assert names(held) == ["evolution-2.orbax", "evolution.safetensors"]
    shutil.copytree(held / "evolution-2.orbax", held / "evolution-7.orbax")
    (held / "evolution.safetensors").unlink()
    with pytest.raises(WeightSpaceError, match="not empty"):
        go(held, resume=True)
