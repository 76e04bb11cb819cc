"""Averages along training against their definitions in numpy; inside Optax, scan, vmap, files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax import merge

STEPS = 13
PATH = np.cumsum(np.random.default_rng(0).normal(size=(STEPS + 1, 3)), 0).astype(np.float32)


def walk(averaging, path=PATH):
    """The averages after every step of a model that follows a path, as one scan."""
    optimizer = optax.chain(optax.scale(1.0), averaging)
    params = {"w": jnp.asarray(path[0]), "step": jnp.int32(0)}

    def step(held, target):
        params, state = held
        updates = {"w": target - params["w"], "step": jnp.int32(1)}
        updates, state = optimizer.update(updates, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), merge.averaged(state, params)

    begin = (params, optimizer.init(params))
    return jax.lax.scan(step, begin, jnp.asarray(path[1:]))


def warm(count):
    return jnp.minimum(0.9, (1 + count) / (10 + count))


@pytest.mark.parametrize("decay", [0.0, 0.9, warm], ids=["none", "constant", "schedule"])
def test_ema_is_its_recurrence(decay):
    _, found = walk(merge.ema(decay))
    expected, rows = PATH[0].astype(float), []
    for t, w in enumerate(PATH[1:]):
        beta = min(0.9, (1 + t) / (10 + t)) if callable(decay) else decay
        expected = beta * expected + (1 - beta) * w
        rows.append(expected)
    np.testing.assert_allclose(found["w"], rows, rtol=1e-5, atol=1e-5)
    assert found["step"].tolist() == list(range(1, STEPS + 1))


@pytest.mark.parametrize(("cycle", "start"), [(1, 0), (3, 0), (3, 5), (1, 20)])
def test_swa_is_the_mean_of_its_snapshots(cycle, start):
    (_, state), found = walk(merge.swa(cycle=cycle, start=start))
    for t in range(1, STEPS + 1):
        snapshots = PATH[start : t + 1 : cycle]
        expected = snapshots.mean(0) if len(snapshots) else PATH[0]
        np.testing.assert_allclose(found["w"][t - 1], expected, rtol=1e-5, atol=1e-5)
    assert int(state[1].taken) == len(PATH[start::cycle])


@pytest.mark.parametrize(("window", "cycle"), [(1, 1), (4, 1), (3, 2)])
def test_lawa_is_the_mean_of_its_last_snapshots(window, cycle):
    _, found = walk(merge.lawa(window=window, cycle=cycle))
    for t in range(1, STEPS + 1):
        snapshots = PATH[cycle : t + 1 : cycle][-window:]
        expected = snapshots.mean(0) if len(snapshots) else PATH[0]
        np.testing.assert_allclose(found["w"][t - 1], expected, rtol=1e-5, atol=1e-5)
        assert int(found["step"][t - 1]) == t // cycle * cycle


ALL = {"ema": merge.ema(0.5), "swa": merge.swa(), "lawa": merge.lawa(window=2, cycle=1)}


@pytest.mark.parametrize("name", ALL)
def test_updates_pass_and_members_vectorise(name):
    params = {"w": jnp.asarray(PATH[:4])}
    updates = {"w": jnp.asarray(PATH[4:8])}
    state = jax.vmap(ALL[name].init)(params)
    out, state = jax.vmap(ALL[name].update)(updates, state, params)
    assert (out["w"] == updates["w"]).all()
    found = jax.vmap(merge.averaged)(state, params)["w"]
    for i in range(4):
        own = {"w": params["w"][i]}
        _, one = ALL[name].update({"w": updates["w"][i]}, ALL[name].init(own), own)
        np.testing.assert_allclose(found[i], merge.averaged(one, own)["w"], rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_half_types_average_in_float32(name):
    """Steps too small for bfloat16 to hold in a running mean still add up."""
    path = np.linspace(1.0, 2.0, 101, dtype=np.float32)[:, None].repeat(3, 1)
    averaging = {
        "ema": merge.ema(0.99),
        "swa": merge.swa(),
        "lawa": merge.lawa(window=100, cycle=1),
    }
    params = {"w": jnp.asarray(path[0], jnp.bfloat16)}
    state = averaging[name].init(params)
    rows = []

    def step(state, w):
        now = {"w": w.astype(jnp.bfloat16)}
        _, state = averaging[name].update({"w": jnp.zeros_like(now["w"])}, state, now)
        return state, now["w"]

    state, rows = jax.lax.scan(step, state, jnp.asarray(path[1:]))
    rows, first = np.asarray(rows, float), np.asarray(params["w"], float)
    share = 0.99 ** np.arange(99, -1, -1)[:, None] * 0.01
    expected = {
        "ema": 0.99**100 * first + (share * rows).sum(0),
        "swa": (first + rows.sum(0)) / 101,
        "lawa": rows.mean(0),
    }[name]
    found = merge.averaged(state, params)["w"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=2**-8)


def test_the_state_is_saved_like_any_other(tmp_path):
    (params, state), found = walk(merge.lawa(window=3, cycle=1))
    ws.io.save(state, tmp_path / "state.safetensors")
    again = ws.io.load(tmp_path / "state.safetensors", like=state)
    np.testing.assert_array_equal(merge.averaged(again, params)["w"], found["w"][-1])


def test_errors():
    params = {"w": jnp.ones(2)}
    with pytest.raises(ws.WeightSpaceError, match="ema: decay: expected 0 to 1, got 2"):
        merge.ema(2.0)
    with pytest.raises(ws.WeightSpaceError, match="swa: cycle: expected at least 1, got 0"):
        merge.swa(cycle=0)
    with pytest.raises(ws.WeightSpaceError, match="lawa: window: expected at least 1"):
        merge.lawa(window=0, cycle=1)
    with pytest.raises(ws.WeightSpaceError, match="swa: update needs the parameters"):
        merge.swa().update(params, merge.swa().init(params))
    with pytest.raises(ws.WeightSpaceError, match="found 0"):
        merge.averaged(optax.adam(0.1).init(params), params)
    with pytest.raises(ws.WeightSpaceError, match="found 2"):
        merge.averaged(optax.chain(merge.ema(0.5), merge.swa()).init(params), params)
    with pytest.raises(ws.WeightSpaceError, match="w: the average is"):
        merge.averaged(merge.ema(0.5).init(params), {"w": jnp.ones(3)})
