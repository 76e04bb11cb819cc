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
OTHERWISE = {"lora bias", "lokr both"}  # that come back in other tensors


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", READ)
def test_what_peft_merges(tmp_path, name):
    """In PyTorch's layout and in Flax's, and the same files again from the latter."""
    case = REFS["cases"][name]
    merged = BASE | arrays(case["merged"], REFS["shapes"])
    folder = saved(tmp_path / "a", name)
    found = read_peft(folder, BASE)
    close_trees = functools.partial(jax.tree.map, close)
    close_trees(found.adapter.fuse(BASE, found.train, found.fixed), merged)
    tree = flax(BASE)
    adapter, train, fixed, config = read_peft(folder, tree)
    close_trees(adapter.fuse(tree, train, fixed), flax(merged))
    write_peft(tmp_path / "b", tree, adapter, train, fixed, config)
    ours, theirs = (ws.io.load(tmp_path / x / "adapter_model.safetensors") for x in "ba")
    if name in OTHERWISE:
        again = read_peft(tmp_path / "b", BASE)
        close_trees(again.adapter.fuse(BASE, again.train, again.fixed), merged)
        return
    specs = [{k: (v.shape, v.dtype) for k, v in tensors.items()} for tensors in (ours, theirs)]
    assert specs[0] == specs[1]
    for key, value in theirs.items():
        skew = lambda x: x - np.swapaxes(x, -1, -2) if key.endswith("boft_R") else x  # noqa: B023
        np.testing.assert_allclose(skew(ours[key]), skew(value), rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text()) == config


@pytest.mark.parametrize("name", ["lora", "dora", "lokr", "boft deep", "miss bat", "vera", "shira"])
def test_what_peft_computes(tmp_path, name):
    """By the factored forward pass."""
    adapter, train, fixed, _ = read_peft(saved(tmp_path / "a", name), BASE)
    run = jax.jit(lambda base, x: ws.trace.factored(net)(adapter.apply(base, train, fixed), x))
    np.testing.assert_allclose(run(BASE, X), REFS["cases"][name]["output"], rtol=1e-4, atol=1e-5)
