"""Differences against plain float64, over formats and dtypes, and the command's exit codes."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import wslax as ws
from wslax import WeightSpaceError
from wslax.cli import main
from wslax.io import statistics
from wslax.io.difference import compare, differences

FLOATS = st.floats(-1e3, 1e3, width=32)
PAIRS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float32, n, elements=FLOATS)] * 2, st.integers(1, n))
)


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_sums_are_those_of_the_whole(pair):
    a, b, piece = pair
    cuts = range(0, a.size, piece)
    sums = compare(*([x[i : i + piece] for i in cuts] for x in (a, b)))
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x), np.linalg.norm(y)
    assert sums.relative == pytest.approx(np.linalg.norm(x - y) / (max(norms) or 1), rel=1e-9)
    assert sums.absmax == np.abs(x - y).max()
    assert (sums.changed, sums.size) == ((a != b).sum(), a.size)
    if (a != b).any():
        cosine = x @ y / (norms[0] * norms[1]) if all(norms) else 0
        assert sums.cosine == pytest.approx(cosine, abs=1e-9)
    assert compare([a], [a])[4:] == (0, 0, a.size)
    assert compare([a], [a]).cosine == 1


KINDS = {
    "halves": (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 2.5], ml_dtypes.bfloat16), 1),
    "dtypes of one value": (np.array([1, 2], np.float16), np.array([1, 2], np.float64), 0),
    "dtypes": (np.array([1, 0.1], np.float16), np.array([1, 0.1], np.float64), 1),
    "integers": (np.array([1, 2, 3], np.int8), np.array([1, 2, -3], np.int8), 1),
    "bools": (np.array([True, False]), np.array([False, False]), 1),
    "complex": (np.array([1 + 1j, 2], np.complex64), np.array([1 - 1j, 2], np.complex64), 1),
    "nan in both": (np.array([np.nan, 1]), np.array([np.nan, 2]), 1),
    "nan in one": (np.array([np.nan, 1]), np.array([1.0, 1]), 1),
    "infinities": (np.array([np.inf, np.inf, 1]), np.array([np.inf, -np.inf, 1]), 1),
    "signs of zero": (np.array([0.0]), np.array([-0.0]), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_and_what_is_not_finite(kind):
    a, b, changed = KINDS[kind]
    sums = compare([a], [b])
    assert sums.changed == changed
    assert np.isfinite([sums.relative, sums.cosine, sums.absmax]).all()
    wide = [x.astype(np.complex128) for x in (a, b)]
    finite = np.isfinite(wide[0]) & np.isfinite(wide[1])
    gap = np.linalg.norm(wide[0][finite] - wide[1][finite])
    assert sums.gap == pytest.approx(gap**2)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two checkpoints that share three tensors: one equal, one changed, one of another shape."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(statistics, "CHUNK", 3)
    rng = np.random.default_rng(0)
    same, left, right = rng.normal(size=(3, 4, 5)).astype(np.float32)
    ws.io.save({"same": same, "w": left, "shape": left, "gone": left}, "a", shard_bytes=100)
    tree = {"new": same, "shape": left[0], "w": right, "same": same}
    ws.io.save(tree, "b.safetensors")
    ws.io.save(tree, "b.npz")
    return left, right


@pytest.mark.parametrize("other", ["b.safetensors", "b.npz"])
def test_two_checkpoints(pair, other):
    left, right = pair
    found = differences("a", other)
    assert [change.name for change in found.changes] == ["w", "same"]
    assert (found.left, found.right) == (["gone"], ["new"])
    assert found.shapes == {"shape": ((4, 5), (5,))}
    gap = np.linalg.norm(left - right)
    larger = max(np.linalg.norm(left), np.linalg.norm(right))
    assert found.changes[0].sums.relative == pytest.approx(gap / larger, rel=1e-6)
    assert found.total.size == 40
    assert found.total.share == 0.5
    assert not found.same
    assert differences("a", "a").same


def test_exit_codes_are_diffs(pair, capsys):
    assert main(["diff", "b.npz", "b.safetensors"]) == 0
    assert "0 of 4 tensors in both differ" in capsys.readouterr().out
    assert main(["diff", "a", "b.npz"]) == 1
    out = capsys.readouterr().out
    for line in ("only in a: gone", "only in b.npz: new", "shape: [4, 5] and [5]"):
        assert line in out
    assert "1 of 2 tensors in both differ" in out
    assert main(["diff", "a", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_command_prints_json(pair, capsys):
    assert main(["diff", "a", "b.npz", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["only_left"], found["only_right"]) == (False, ["gone"], ["new"])
    assert [row["name"] for row in found["tensors"]] == ["w", "same"]
    assert found["tensors"][0]["changed"] == found["changed"] == 20


def test_another_dtype_is_a_difference(tmp_path, capsys):
    for dtype in (np.float32, np.float64):
        ws.io.save({"w": np.ones(3, dtype)}, tmp_path / f"{dtype.__name__}.npz")
    assert main(["diff", str(tmp_path / "float32.npz"), str(tmp_path / "float64.npz")]) == 1
    assert "float32 → float64" in capsys.readouterr().out


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(WeightSpaceError, match="nowhere"):
        differences(tmp_path / "nowhere", tmp_path)
