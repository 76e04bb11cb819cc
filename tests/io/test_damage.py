"""Damaged files, interrupted writers, wrong pieces: our error, and nothing under the final name."""

import contextlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.io.header import Spec, make_header

FLOATS = {"w": Spec(np.dtype("float32"), (4,)), "v": Spec(np.dtype("float32"), (4,))}
KILLED = """
import os, signal, sys
import numpy as np
from wslax.io.header import Spec
from wslax.io.writer import write_tensors
with write_tensors(sys.argv[1], {"w": Spec(np.dtype("float32"), (4,))}) as (writer, _):
    writer.write("w", 0, np.ones(2, np.float32))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_killed_writer_leaves_only_the_partial_and_the_next_starts_afresh(tmp_path, name):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False)
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.partial"]
    ws.io.save({"w": np.ones(4, np.float32)}, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(ws.io.load(tmp_path / name)["w"], 1)


def test_wslax_io_needs_neither_jax_nor_safetensors():
    code = (
        "import sys, wslax.io as io; io.load, io.save, io.open_tensors, io.convert, io.summarise;"
        "print([m for m in ('jax', 'safetensors', 'flax', 'orbax', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


BAD_PIECES = {
    "dtype": (lambda w: w.write("w", 0, np.zeros(4)), "declared float32, got float64"),
    "too long": (lambda w: w.write("w", 2, np.zeros(3, np.float32)), "4 elements, got 2 to 5"),
    "before": (lambda w: w.write("w", -1, np.zeros(1, np.float32)), "4 elements, got -1 to 0"),
}


@pytest.mark.parametrize("kind", BAD_PIECES)
@pytest.mark.parametrize("target", ["model", "model.safetensors"])
def test_a_wrong_piece_ends_the_output(tmp_path, kind, target):
    wrong, message = BAD_PIECES[kind]
    with (
        pytest.raises(WeightSpaceError, match=message),
        ws.io.write_tensors(tmp_path / target, FLOATS) as (writer, _),
    ):
        wrong(writer)
    assert not list(tmp_path.iterdir())


BAD_TREES = {
    "dtype": ({"w": np.zeros(2, np.complex128)}, "no dtype for complex128"),
    "reserved": ({"__metadata__": np.zeros(2)}, "keeps this name for itself"),
    "function": ({"w": [np.tanh]}, "w/0: a ufunc is no array"),
}


@pytest.mark.parametrize("kind", BAD_TREES)
def test_trees_that_cannot_be_stored(tmp_path, kind):
    tree, message = BAD_TREES[kind]
    with pytest.raises(WeightSpaceError, match=message):
        ws.io.save(tree, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_metadata_other_than_strings_would_make_an_unreadable_file():
    with pytest.raises(WeightSpaceError, match="expected a map of strings"):
        make_header(FLOATS, {"a": 1})


def test_a_folder_in_the_place_of_a_file_is_known_before_any_work(tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    ws.io.save({"w": np.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors/z").mkdir(parents=True)
    with pytest.raises(WeightSpaceError, match="not empty"):
        ws.io.save({"w": np.zeros(2)}, tmp_path / "y.safetensors")


def test_any_number_of_threads_read_and_write_pieces(tmp_path):
    whole = np.random.default_rng(0).normal(size=1 << 12)
    starts = range(0, whole.size, 64)
    with (
        ThreadPoolExecutor(8) as pool,
        ws.io.write_tensors(tmp_path / "m", {"w": Spec(whole.dtype, whole.shape)}) as (writer, _),
    ):
        list(pool.map(lambda s: writer.write("w", s, whole[s : s + 64]), starts))
    with ThreadPoolExecutor(8) as pool, ws.io.open_tensors(tmp_path / "m") as tensors:
        parts = pool.map(lambda s: tensors.read_into("w", s, np.empty(64)), starts)
        np.testing.assert_array_equal(np.concatenate(list(parts)), whole)


def test_reads_outside_a_tensor_are_refused(tmp_path):
    ws.io.save({"a": np.arange(4.0), "b": np.arange(4.0)}, tmp_path / "x.safetensors")
    with ws.io.open_tensors(tmp_path / "x.safetensors") as tensors:
        assert tensors.names == ("a", "b")
        np.testing.assert_array_equal(tensors.view("a", 1, 3), [1, 2])
        for start, out, message in [
            (2, np.empty(3), "asked for 2 to 5"),
            (-1, np.empty(1), "asked for -1 to 0"),
            (0, np.empty(4, np.float32), "as float32"),
            (0, np.empty(8)[::2], "not contiguous"),
        ]:
            with pytest.raises(WeightSpaceError, match=message):
                tensors.read_into("a", start, out)
        (tmp_path / "x.safetensors").write_bytes(b"")
        with pytest.raises(WeightSpaceError, match="ended while reading 'a'"):
            tensors.read_into("a", 0, np.empty(4))


def test_data_lies_aligned_whatever_the_order_of_names(tmp_path):
    tree = {
        "a": np.arange(3, dtype=np.int8),
        "b": np.arange(3, dtype=ml_dtypes.bfloat16),
        "c": np.arange(3.0),
    }
    ws.io.save(tree, tmp_path / "x.safetensors")
    back = ws.io.load(tmp_path / "x.safetensors")
    assert list(back) == ["a", "b", "c"]
    for name, value in back.items():
        assert value.flags.aligned
        np.testing.assert_array_equal(value, tree[name])


@pytest.mark.parametrize(
    "path", ["gone", "gone.safetensors", "gone/model.safetensors.index.json", "gone.npz", "n" * 300]
)
def test_what_is_not_there_is_named(tmp_path, path):
    with pytest.raises(WeightSpaceError, match=r"gone|nnn"):
        ws.io.load(tmp_path / path)
    with pytest.raises(WeightSpaceError, match=r"no such file|No such file|cannot be read"):
        ws.io.open_tensors(tmp_path / path)


def test_an_index_with_a_name_twice_is_refused(tmp_path):
    ws.io.save({"a": np.zeros(3), "b": np.zeros(3)}, tmp_path / "m", shard_bytes=24)
    index = tmp_path / "m/model.safetensors.index.json"
    first, second = json.loads(index.read_text())["weight_map"].values()
    index.write_text(f'{{"weight_map": {{"a": "{first}", "a": "{first}", "b": "{second}"}}}}')
    with pytest.raises(WeightSpaceError, match="'a' stands twice"):
        ws.io.load(tmp_path / "m")


def test_npz_holds_any_leaf_name_and_refuses_other_kinds(tmp_path):
    tree = {"file": np.zeros(2), "allow_pickle": np.ones((), np.float16), "a/b": np.ones((0, 2))}
    ws.io.save(tree, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as official:
        assert {k: v.shape for k, v in official.items()} == {k: v.shape for k, v in tree.items()}
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    np.save(tmp_path / "one.npy", np.zeros(2))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("text.npz", "one.npz"):
        with pytest.raises(WeightSpaceError, match="not an npz of plain arrays"):
            ws.io.load(tmp_path / name)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_flipped_bytes_in_an_npz_never_do_worse_than_our_error(tmp_path_factory, data):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(6.0).reshape(2, 3), b=np.arange(3))
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flip.npz"
    path.write_bytes(raw)
    with contextlib.suppress(WeightSpaceError):
        ws.io.load(path)


def test_keys_are_rebuilt_only_from_words_of_their_shape(tmp_path):
    keys = jax.random.split(jax.random.key(1), 3)
    ws.io.save({"k": keys}, tmp_path / "k.safetensors")
    struct = jax.ShapeDtypeStruct((3,), keys.dtype)
    back = ws.io.load(tmp_path / "k.safetensors", like={"k": struct})["k"]
    assert (jax.random.key_data(back) == jax.random.key_data(keys)).all()
    with pytest.raises(WeightSpaceError, match=r"k: the file has uint32\[3,2\], the keys .*\[2\]"):
        ws.io.load(tmp_path / "k.safetensors", like={"k": jax.random.key(0)})


def test_two_stored_names_of_one_leaf_are_refused(tmp_path):
    ws.io.save({"a.b": np.zeros(1), "a/b": np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightSpaceError, match="are one leaf"):
        ws.io.load(tmp_path / "x.safetensors", like={"a": {"b": np.zeros(1)}})


def test_a_damaged_orbax_folder_is_our_error(tmp_path):
    (tmp_path / "x.orbax").mkdir()
    (tmp_path / "x.orbax/_METADATA").write_text("{")
    with pytest.raises(WeightSpaceError, match="not a whole Orbax checkpoint"):
        ws.io.load(tmp_path / "x.orbax")
