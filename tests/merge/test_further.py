"""Methods on disk beyond mergekit's, against the functions in memory."""

import numpy as np
import pytest

import wslax as ws
from wslax.merge.files import config, stream
from wslax.merge.files.plan import make_plan
from wslax.merge.further import FURTHER

SHAPES = {"h.weight": (6, 4), "h.bias": (6,), "h.kernel": (4, 6), "conv.weight": (3, 2, 2, 2)}
OPTIONS = {
    "magmax": {"lam": 0.7},
    "consensus": {"lam": 0.6, "mask_lam": 0.5, "least": 1},
    "iso_cts": {"lam": 1.2, "common": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("further")
    rng = np.random.default_rng(0)
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    for name in ("base", "a", "b", "c"):
        moved = {n: x + 0.3 * rng.normal(size=x.shape).astype(np.float32) for n, x in base.items()}
        ws.io.save(base if name == "base" else moved, folder / f"{name}.safetensors")
    return folder


def recipe(folder, name):
    words = {param.name: param.word for param in FURTHER[name].params}
    return {
        "merge_method": name,
        "base_model": f"{folder}/base.safetensors",
        "models": [{"model": f"{folder}/{x}.safetensors"} for x in "abc"],
        "parameters": {words[k]: v for k, v in OPTIONS.get(name, {"lam": 0.9}).items()},
    }


def turned(tree):
    """PyTorch's matrices as Flax's, and back."""
    return {n: np.swapaxes(x, -2, -1) if n == "h.weight" else x for n, x in tree.items()}


@pytest.mark.parametrize("name", FURTHER)
def test_equals_the_function_in_memory(folder, tmp_path, name):
    ws.merge.checkpoints(recipe(folder, name), tmp_path / "out.safetensors")
    found = ws.io.load(tmp_path / "out.safetensors")
    trees = [turned(ws.io.load(folder / f"{x}.safetensors")) for x in ("base", "a", "b", "c")]
    function, options = getattr(ws.merge, name), OPTIONS.get(name, {"lam": 0.9})
    wanted = turned(function(ws.population.stack(trees[1:]), trees[0], **options))
    for tensor, x in wanted.items():
        np.testing.assert_allclose(found[tensor], x, rtol=1e-5, atol=1e-5, err_msg=tensor)


@pytest.mark.parametrize("name", FURTHER)
def test_pieces_and_threads_change_nothing(folder, tmp_path, name):
    plan = make_plan(config.parse_recipe(recipe(folder, name)))

    def written(chunk, threads):
        out = tmp_path / f"{chunk}-{threads}.safetensors"
        with ws.io.write_tensors(out, {job.name: job.spec for job in plan.jobs}) as (writer, _):
            stream.execute(plan, writer, chunk=chunk, threads=threads)
        return out.read_bytes()

    assert written(5, 2) == written(1000, 1)


def test_defaults_are_those_of_the_functions():
    import inspect

    for name, method in FURTHER.items():
        given = inspect.signature(getattr(ws.merge, name)).parameters
        for param in method.params:
            assert given[param.name].default == param.default, (name, param.name)
