"""PEFT's files against what PEFT makes of them, there and back, and every refusal."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax.adapt import read_peft, write_peft

REFS = json.loads((pathlib.Path(__file__).parent / "peft_refs.json").read_text())
X = np.array(REFS["x"], np.float32)


def arrays(values, shapes):
    return {
        name: np.array(v, np.int32 if name.endswith("indices") else np.float32).reshape(
            shapes[name]
        )
        for name, v in values.items()
    }


BASE = arrays(REFS["base"], REFS["shapes"])


def folder_of(path, config, tensors):
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    ws.io.save(tensors, path / "adapter_model.safetensors")
    return path


def saved(path, name):
    case = REFS["cases"][name]
    return folder_of(path, case["config"], arrays(case["stored"], case["shapes"]))


def net(params, x):
    """The references' model, in PyTorch's layout."""
    vectors = {name: value[None] for name, value in params.items() if value.ndim == 1}
    linear = lambda x, name: x @ params[f"{name}.weight"].T + vectors[f"{name}.bias"]
    h = jnp.tanh(linear(x, "up"))
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    return linear(linear(h * vectors["norm.weight"] + vectors["norm.bias"], "down"), "head")


def flax(params):
    """The references' parameters as a tree of Flax."""
    steps = ws.io.layout.plan({k: v.shape for k, v in params.items()}, "flax")
    tree = {}
    for name, value in ws.io.relayout(params, steps).items():
        module, leaf = name.split("/")
        tree.setdefault(module, {})[leaf] = value
    return tree


UNREAD = ("oft shared", "oft bounded")
READ = [name for name in REFS["cases"] if name not in UNREAD]


@pytest.mark.parametrize("name", READ)
def test_what_peft_merges(tmp_path, name):
    case = REFS["cases"][name]
    merged = BASE | arrays(case["merged"], REFS["shapes"])
    adapter, train, fixed, _ = read_peft(saved(tmp_path / "a", name), BASE)
    fused = adapter.fuse(BASE, train, fixed)
    for key, value in fused.items():
        np.testing.assert_allclose(value, merged[key], rtol=1e-5, atol=3e-6, err_msg=key)
    applied = adapter.apply(BASE, train, fixed)
    np.testing.assert_allclose(
        ws.trace.factored(net)(applied, X), case["output"], rtol=1e-4, atol=1e-5
    )
    tree, expected = flax(BASE), flax(merged)
    adapter, train, fixed, _ = read_peft(tmp_path / "a", tree)
    fused = adapter.fuse(tree, train, fixed)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=3e-6), fused, expected
    )


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("layout", [dict, flax])
def test_there_and_back(tmp_path, name, layout):
    params = layout(BASE)
    adapter, train, fixed, config = read_peft(saved(tmp_path / "a", name), params)
    write_peft(tmp_path / "b", params, adapter, train, fixed, config)
    ours, theirs = (ws.io.load(tmp_path / x / "adapter_model.safetensors") for x in "ba")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        np.testing.assert_array_equal(ours[key], value)
    again = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert again == config
