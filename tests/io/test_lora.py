"""PEFT's folders against what PEFT makes of them, in pieces, and every refusal."""

import json
import pathlib

import numpy as np
import pytest

import wslax as ws
from wslax import WeightSpaceError
from wslax.io.lora import apply_adapter, read_adapter
from wslax.io.peft import PREFIX

REFS = json.loads((pathlib.Path(__file__).parent / "peft_refs.json").read_text())
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
SHAPES = {"fc.weight": (3, 4), "fc.bias": (3,)}


def arrays(case, what):
    values = case[what].items()
    return {k: np.array(v, np.float32).reshape(case["shapes"][k]) for k, v in values}


def folder_of(path, config, tensors):
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    ws.io.save(tensors, path / "adapter_model.safetensors")
    return path


def factors(rank=2, module="fc", out=3, inner=4):
    rng = np.random.default_rng(rank)
    return {
        f"{PREFIX}{module}.lora_A.weight": rng.normal(size=(rank, inner)).astype(np.float32),
        f"{PREFIX}{module}.lora_B.weight": rng.normal(size=(out, rank)).astype(np.float32),
    }


@pytest.mark.parametrize("name", REFS)
@pytest.mark.parametrize("piece", [5, 1000])
def test_what_peft_merges(tmp_path, name, piece):
    """In pieces that cut rows, and whole; what the adapter does not name stays as it is."""
    case = REFS[name]
    base, merged = arrays(case, "base"), arrays(case, "merged")
    folder = folder_of(tmp_path / "adapter", case["config"], arrays(case, "stored"))
    adapter = read_adapter(folder, {k: v.shape for k, v in base.items()})
    changed = {k for k in base if not np.array_equal(base[k], merged[k])}
    assert adapter.names >= changed
    for key, value in base.items():
        flat = value.reshape(-1)
        starts = range(0, flat.size, piece)
        parts = [apply_adapter(adapter, key, i, flat[i : i + piece]) for i in starts]
        whole = np.concatenate(parts).reshape(value.shape)
        np.testing.assert_allclose(whole, merged[key], rtol=1e-5, atol=2e-5)
    adapter.tensors.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_arithmetic_is_in_the_dtype_of_the_values(tmp_path, dtype):
    import ml_dtypes  # noqa: F401  names bfloat16

    stored = {k: v.astype(dtype) for k, v in factors().items()}
    adapter = read_adapter(folder_of(tmp_path / "a", PLAIN, stored), SHAPES)
    a, b = (v.astype(np.float64) for v in stored.values())
    for wide in (np.float32, np.float64):
        values = np.ones((3, 4), wide)
        got = apply_adapter(adapter, "fc.weight", 0, values)
        assert got.dtype == wide
        np.testing.assert_allclose(got, 1 + 2 * b @ a, rtol=1e-5 if wide == np.float32 else 1e-12)


def _config(**changes):
    return PLAIN | changes, factors()


def _stored(remove=(), **more):
    kept = {k: v for k, v in factors().items() if not k.endswith(tuple(remove))}
    return PLAIN, kept | {PREFIX + k.replace("__", "."): np.ones(s) for k, s in more.items()}


REFUSED = {
    "another kind": (_config(peft_type="IA3"), "expected peft_type 'LORA', got 'IA3'"),
    "dora": (_config(use_dora=True), "DoRA is not read"),
    "pissa": (_config(init_lora_weights="pissa_niter_4"), "starts from changed base weights"),
    "a start of one": (_config(init_lora_weights=1), "starts from changed base weights"),
    "rank": (_config(r=3), "fc: stored with rank 2, the config says 3"),
    "rank of a pattern": (_config(rank_pattern={"f.": 4}), "rank 2, the config says 4"),
    "alpha": (_config(lora_alpha="x"), "lora_alpha of fc: expected a number above zero, got 'x'"),
    "alpha is true": (_config(lora_alpha=True), "got True"),
    "alpha is infinite": (_config(lora_alpha=float("inf")), "got inf"),
    "patterns": (_config(alpha_pattern=[1]), r"expected a map of module names, got \[1\]"),
    "endless pattern": (_config(rank_pattern={"(x+)+y": 2}), "may take for ever"),
    "broken pattern": (_config(rank_pattern={"x[": 2}), "cannot be read"),
    "half": (_stored(remove=["lora_B.weight"]), r"expected one A and one B, got \['A'\]"),
    "magnitudes": (_stored(fc__lora_magnitude_vector=3), "DoRA and other variants"),
    "unknown module": (_stored(fd__bias=3), "no tensor 'fd.bias'. Did you mean 'fc.bias'"),
    "whole of another shape": (_stored(fc__modules_to_save__bias=4), r"\[4\] in place of \[3\]"),
    "bias of another shape": (_stored(fc__lora_B__bias=4), r"\[4\] in place of \[3\]"),
    "two wholes": (
        _stored(fc__modules_to_save__bias=3, fc__bias=3), "both replace fc.bias"),
    "both kinds": (
        _stored(fc__lora_embedding_A=(2, 3), fc__lora_embedding_B=(4, 2)), "one A and one B"),
    "integers": ((PLAIN, {k: v.astype(np.int8) for k, v in factors().items()}), "expected floats"),
    "shapes apart": ((PLAIN, factors(2) | {f"{PREFIX}fc.lora_B.weight": np.ones((3, 1))}),
                     r"A \[2, 4\] and B \[3, 1\] are not"),
    "base": ((PLAIN, factors(out=5)), r"the base has \[3, 4\], the adapter gives \[5, 4\]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_names_the_folder_once(tmp_path, kind):
    (config, tensors), message = REFUSED[kind]
    folder = folder_of(tmp_path / "adapter", config, tensors)
    with pytest.raises(WeightSpaceError, match=message) as caught:
        read_adapter(folder, SHAPES)
    assert str(caught.value).count(str(folder)) == 1


@pytest.mark.parametrize("inner_first", [False, True])
def test_of_a_square_tensor_the_config_says_how_it_lies(tmp_path, inner_first):
    stored = factors(out=4)
    config = PLAIN | {"fan_in_fan_out": inner_first}
    adapter = read_adapter(folder_of(tmp_path / "a", config, stored), {"fc.weight": (4, 4)})
    a, b = stored.values()
    got = apply_adapter(adapter, "fc.weight", 0, np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(got, 2 * ((b @ a).T if inner_first else b @ a), rtol=1e-5)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"r": 1, "r": 2}', "[" * 100_000])
def test_configs_that_are_none(tmp_path, text):
    folder = folder_of(tmp_path / "adapter", PLAIN, factors())
    (folder / "adapter_config.json").unlink()
    if text is not None:
        (folder / "adapter_config.json").write_text(text)
    with pytest.raises(WeightSpaceError, match=r"adapter_config\.json"):
        read_adapter(folder, SHAPES)


def test_a_pickled_adapter_is_refused(tmp_path):
    folder = folder_of(tmp_path / "adapter", PLAIN, factors())
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(WeightSpaceError, match="wslax never does"):
        read_adapter(folder, SHAPES)
