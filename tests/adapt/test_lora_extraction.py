"""Extracted adapters against LAPACK's SVD, and put back into the base."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.adapt import extract, factorise
from wslax.cli import main
from wslax.io.lora import apply_adapter, read_adapter

NORM = "h.0.norm.weight"


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_factors_are_the_leading_singular_vectors(m, n, max_rank, seed):
    change = np.random.default_rng(seed).normal(size=(m, n)).astype(np.float32)
    a, b = factorise(change, max_rank)
    rank = min(m, n, max_rank)
    assert (a.shape, b.shape) == ((rank, n), (m, rank))
    np.testing.assert_allclose(b @ a, truncated(change, rank), atol=1e-5)
    # Each carries the root of the singular values.
    np.testing.assert_allclose(b.T @ b, a @ a.T, atol=1e-4)
    np.testing.assert_allclose(np.diag(a @ a.T), np.linalg.svd(change)[1][:rank], rtol=1e-4)


def test_the_rank_is_what_is_there():
    rng = np.random.default_rng(0)
    change = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60))).astype(np.float32)
    values = np.linalg.svd(change)[1]
    for epsilon, rank in [(0.0, 3), ((values[1] + values[2]) / 2, 2), (values[0] * 2, 0)]:
        a, b = factorise(change, sv_epsilon=float(epsilon))
        assert (len(a), b.shape[1]) == (rank, rank)
        np.testing.assert_allclose(b @ a, truncated(change, rank), atol=1e-4)


def test_products_are_mergekits(tmp_path):
    """`tests/peers/make_mergekit_tools_refs.py` made the reference."""
    refs = json.loads((pathlib.Path(__file__).parent / "mergekit_lora_refs.json").read_text())
    trees = {
        kind: {k: np.array(v, np.float32).reshape(shape) for k, (shape, v) in tensors.items()}
        for kind, tensors in refs.items()
    }
    base, theirs = trees["base"], trees["adapter"]
    made = extract(*saved(tmp_path, base, trees["tuned"]), max_rank=3)
    assert len(made.modules) == sum(name.endswith("lora_A.weight") for name in theirs) == 7
    for name, value in put_back(tmp_path / "out", base).items():
        a = f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight"
        if a in theirs:
            product = theirs[a.replace("lora_A", "lora_B")] @ theirs[a]
            np.testing.assert_allclose(value - base[name], product, atol=2e-5)
        else:
            np.testing.assert_array_equal(value, theirs.get(f"base_model.model.{name}", base[name]))


def models(dtype=np.float32, change=2):
    """A base and its fine-tune: two layers, one left alone; an embedding, a norm, biases."""
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    base = {"embed.weight": draw(11, 6), NORM: draw(6)}
    for i in range(2):
        base |= {f"h.{i}.up.weight": draw(8, 6), f"h.{i}.up.bias": draw(8)}
        base |= {f"h.{i}.down.weight": draw(6, 8)}
    tuned = {k: v + draw(*v.shape) * 0.1 for k, v in base.items()}
    for name in ("h.0.up.weight", "h.1.down.weight", "h.0.down.weight"):
        m, n = base[name].shape
        tuned[name] = base[name] + draw(m, change) @ draw(change, n)
    tuned |= {"h.1.up.weight": base["h.1.up.weight"], "h.1.up.bias": base["h.1.up.bias"]}
    return tuple({k: v.astype(dtype) for k, v in tree.items()} for tree in (base, tuned))


def saved(tmp_path, base, tuned):
    ws.io.save(base, tmp_path / "base")
    ws.io.save(tuned, tmp_path / "tuned")
    return tmp_path / "tuned", tmp_path / "base", tmp_path / "out"


def put_back(folder, base):
    adapter = read_adapter(folder, {k: v.shape for k, v in base.items()})
    wide = {k: v.astype(np.float32) for k, v in base.items()}
    return {k: apply_adapter(adapter, k, 0, v) for k, v in wide.items()}


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-5), (ml_dtypes.bfloat16, 0.1)])
def test_an_adapter_gives_the_fine_tune_back(tmp_path, dtype, atol):
    base, tuned = models(dtype)
    made = extract(*saved(tmp_path, base, tuned), max_rank=6)
    assert {m.module: m.rank for m in made.modules}["h.0.up"] == (2 if dtype == np.float32 else 6)
    assert made.unchanged == 2
    for name, value in put_back(tmp_path / "out", base).items():
        np.testing.assert_allclose(value, tuned[name].astype(np.float32), atol=atol)
        if name not in {f"{m.module}.weight" for m in made.modules}:
            np.testing.assert_array_equal(value, tuned[name])
    stored = ws.io.load(tmp_path / "out" / "adapter_model.safetensors")
    assert {v.dtype for v in stored.values()} == {np.dtype(dtype)}
    assert sum(v.nbytes for v in stored.values()) == made.written


def test_what_is_lost_is_what_the_rest_of_the_spectrum_holds(tmp_path):
    base, tuned = models(change=4)
    made = extract(*saved(tmp_path, base, tuned), max_rank=3)
    for module in made.modules:
        change = tuned[f"{module.module}.weight"] - base[f"{module.module}.weight"]
        s = np.linalg.svd(change)[1]
        wanted = np.linalg.norm(s[3:]) / np.linalg.norm(s)
        assert module.lost == pytest.approx(wanted, rel=1e-3)


def test_the_config_names_modules_so_that_no_other_is_meant(tmp_path):
    base, tuned = models()
    tuned["h.1.down.weight"] = base["h.1.down.weight"] + np.eye(6, 8, dtype=np.float32)
    extract(*saved(tmp_path, base, tuned))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down", "h.0.up"]  # h.1.up did not change
    assert config["modules_to_save"] == ["embed", "h.0.norm"]
    assert (config["bias"], config["r"], config["lora_alpha"]) == ("all", 6, 6)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"h.0.down": 2, "h.0.up": 2}


def test_matrices_stored_with_inputs_first(tmp_path):
    """As GPT-2's: the biases show it, and PEFT is told."""
    base, tuned = ({k: v.T.copy() for k, v in tree.items()} for tree in models())
    base["embed.weight"], tuned["embed.weight"] = base["embed.weight"].T, tuned["embed.weight"].T
    extract(*saved(tmp_path, base, tuned), max_rank=2)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    for name, value in put_back(tmp_path / "out", base).items():
        np.testing.assert_allclose(value, tuned[name], atol=1e-5)


def _change(**given):
    """A fine-tune with tensors replaced (None: taken away)."""
    base, tuned = models()
    tuned = {**tuned, **{k.replace("__", "."): v for k, v in given.items()}}
    return base, {k: v for k, v in tuned.items() if v is not None}


NOTHING = {"max_rank": 128}
REFUSED = {
    "rank": (models(), {"max_rank": 0}, "expected max_rank >= 1"),
    "epsilon": (models(), {"sv_epsilon": float("nan")}, "sv_epsilon >= 0"),
    "glob": (models(), {"include": ["*nothing*"]}, "picks no leaf"),
    "glob of wholes": (models(), {"whole": ["*nothing*"]}, "picks no leaf"),
    "missing": (_change(h__0__up__weight=None), NOTHING, "h.0.up.weight: .*base.* has it"),
    "extra": (_change(new__weight=np.ones(3)), NOTHING, "new.weight: .*tuned.* has it"),
    "shape": (_change(h__0__up__weight=np.ones((6, 6), np.float32)), NOTHING, r"\[6, 6\] in"),
    "nan": (_change(h__0__up__weight=np.full((8, 6), np.nan, np.float32)), NOTHING, "holds NaN"),
    "a byte": (
        _change(h__0__up__weight=np.ones((8, 6), ml_dtypes.float8_e4m3fn)), NOTHING, "is no float"),
    "no float": (_change(h__0__up__weight=np.ones((8, 6), np.int8)), NOTHING, "is no float"),
    "no place": (
        tuple({**m, "scales": np.full(2, i)} for i, m in enumerate(models())), NOTHING,
        "holds .weight and .bias of modules only"),
    "nothing": ((models()[0],) * 2, NOTHING, "nothing in it differs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_leave_nothing(tmp_path, kind):
    (base, tuned), options, message = REFUSED[kind]
    with pytest.raises(WeightSpaceError, match=message):
        extract(*saved(tmp_path, base, tuned), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_the_command(tmp_path, capsys):
    words = [str(path) for path in saved(tmp_path, *models())]
    assert main(["extract-lora", *words, "--exclude", "*bias", "--whole", "*up*", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [module["module"] for module in made["modules"]] == ["h.0.down", "h.1.down"]
    assert made["whole"] == ["embed.weight", NORM, "h.0.up.weight"]
    assert main(["extract-lora", *words]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["extract-lora", *words[:2], str(tmp_path / "again")]) == 0
    assert "3 modules, 3 tensors whole, 2 unchanged" in capsys.readouterr().out
