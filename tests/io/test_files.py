"""Files against the reference library, and every way in which one can be bad."""

import json
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import wslax as ws
from wslax import WeightSpaceError
from wslax.io import atomic
from wslax.io.header import DTYPES, Spec

PLAIN = [d for d in DTYPES.values() if d.kind in "biuf"]
NUMPY_DTYPES = st.sampled_from([d for d in PLAIN if d.itemsize > 0])
SHAPES = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (2, 0, 3), (2, 3, 2)])


def values(dtype, shape, seed=0):
    count = int(np.prod(shape))
    high = 2 if dtype.kind == "b" else 256
    raw = np.random.default_rng(seed).integers(0, high, count * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@given(st.lists(st.tuples(NUMPY_DTYPES, SHAPES), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_round_trip_of_every_dtype_and_shape(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    tree = {f"t{i}": values(*kind, seed=i) for i, kind in enumerate(kinds)}
    ws.io.save(tree, path)
    back = ws.io.load(path)
    for name, value in tree.items():
        same(back[name], value)


def test_the_reference_library_reads_what_we_write_and_the_other_way(tmp_path):
    tree = {
        f"layer.{dtype.name}": values(dtype, (3, 5))
        for dtype in PLAIN
        if dtype.kind in "iub" or dtype.name in {"float64", "float32", "float16"}
    } | {"layer.bf16": np.ones((2, 2), ml_dtypes.bfloat16)}
    ws.io.save(tree, tmp_path / "ours.safetensors", metadata={"note": "ä"})
    for name, value in reference.load_file(tmp_path / "ours.safetensors").items():
        same(value, tree[name])
    reference.save_file(tree, tmp_path / "theirs.safetensors")
    for name, value in ws.io.load(tmp_path / "theirs.safetensors").items():
        same(value, tree[name])
    with ws.io.open_tensors(tmp_path / "ours.safetensors") as tensors:
        assert tensors.metadata == {"format": "pt", "note": "ä"}


def test_pieces_read_and_write_at_their_offsets(tmp_path):
    whole = np.arange(100, dtype=np.float32)
    specs = {"a": Spec(whole.dtype, (100,)), "b": Spec(np.dtype("int8"), (3,))}
    with ws.io.write_tensors(tmp_path / "x.safetensors", specs) as (writer, _):
        writer.write("b", 0, np.array([1, 2, 3], np.int8))
        writer.write("a", 60, whole[60:])
        writer.write("a", 0, whole[:60])
    with ws.io.open_tensors(tmp_path / "x.safetensors") as tensors:
        same(tensors.read_into("a", 37, np.empty(20, np.float32)), whole[37:57])
        same(tensors.read("a"), whole)


def test_a_folder_is_sharded_with_an_index(tmp_path):
    tree = {f"w{i}": np.full((10,), i, np.float32) for i in range(5)}
    ws.io.save(tree, tmp_path / "model", shard_bytes=80)
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    for name, value in ws.io.load(tmp_path / "model").items():
        same(value, tree[name])
    with pytest.raises(WeightSpaceError, match="not empty"):
        ws.io.save(tree, tmp_path / "model")


def test_like_rebuilds_trees_keys_and_placements(tmp_path):
    mesh = jax.make_mesh((4,), ("m",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("m"))
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    tree = {
        "net": eqx.filter(model, eqx.is_array),
        "key": jax.random.key(7),
        "count": jnp.int32(3),
        "nothing": None,
        "host": np.arange(3),
        "spread": jax.device_put(jnp.arange(8.0), sharding),
    }
    ws.io.save(tree, tmp_path / "x.safetensors")
    back = ws.io.load(tmp_path / "x.safetensors", like=tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert back["spread"].sharding == sharding
    assert isinstance(back["host"], np.ndarray)
    assert (jax.random.key_data(back["key"]) == jax.random.key_data(tree["key"])).all()
    same(back["net"].layers[0].weight, model.layers[0].weight)


def test_orbax_restores_onto_another_sharding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mesh = jax.make_mesh((4,), ("m",), axis_types=(jax.sharding.AxisType.Auto,))
    tree = {"w": jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("m")))}
    ws.io.save(tree, "x.orbax")
    whole = NamedSharding(mesh, PartitionSpec())
    like = {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=whole)}
    back = ws.io.load("x.orbax", like=like)
    assert back["w"].sharding == whole
    same(back["w"], tree["w"])
    host = ws.io.load("x.orbax")["w"]
    assert isinstance(host, np.ndarray)
    same(host, tree["w"])
    for bad, message in [
        ({"v": like["w"]}, "no leaf 'v'"),
        ({"w": jax.ShapeDtypeStruct((8,), jnp.float16)}, r"w: .* float32\[8\], like= has float16"),
        ({"w": np.zeros(4, np.float32)}, r"has float32\[8\], like= has float32\[4\]"),
    ]:
        with pytest.raises(WeightSpaceError, match=message):
            ws.io.load("x.orbax", like=bad)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.orbax"])
def test_python_number_of_a_fresh_state_takes_the_step_of_a_trained_one(tmp_path, name):
    """Flax's `TrainState.create` begins with the step 0, which a jitted step makes int32."""
    ws.io.save({"step": jnp.int32(3), "w": jnp.ones(2)}, tmp_path / name)
    back = ws.io.load(tmp_path / name, like={"step": 0, "w": jnp.zeros(2)})
    assert back["step"] == 3
    assert isinstance(back["step"], int)
    with pytest.raises(WeightSpaceError, match=r"step: the .* has int32\[\], like= has float"):
        ws.io.load(tmp_path / name, like={"step": 0.0, "w": jnp.zeros(2)})


def test_like_names_what_does_not_fit(tmp_path):
    ws.io.save({"a.kernel": np.zeros((2, 3), np.float32)}, tmp_path / "x.safetensors")
    like = {"a": {"kernel": np.zeros((2, 3), np.float32)}}
    same(ws.io.load(tmp_path / "x.safetensors", like)["a"]["kernel"], like["a"]["kernel"])
    for bad, message in [
        ({"a": {"kernal": like["a"]["kernel"]}}, "Did you mean 'a.kernel'"),
        ({"a": {"kernel": np.zeros((3, 2), np.float32)}}, r"float32\[2,3\], like= has"),
        ({"a": {"kernel": np.zeros((2, 3), np.float16)}}, r"has float16\[2,3\]"),
        ({}, "which like= has not"),
    ]:
        with pytest.raises(WeightSpaceError, match=message):
            ws.io.load(tmp_path / "x.safetensors", bad)


def file_of(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD_FILES = {
    "short": (b"abc", "too short"),
    "truncated": (file_of({"w": entry()}, b"\0\0"), "outside the 2 there are"),
    "long header": (file_of({}, length=10**6), "claims 1000000 bytes"),
    "huge header": (file_of({}, length=2**63), "claims"),
    "no json": (file_of(b"{nope"), "not JSON"),
    "no utf-8": (file_of(b"\xff\xfe"), "not JSON"),
    "deep json": (file_of(b"[" * 100_000), "not JSON"),
    "a list": (file_of([]), "not a JSON object"),
    "twice": (file_of(b'{"w":1,"w":2}'), "'w' stands twice"),
    "dtype": (file_of({"w": entry("F31")}, bytes(4)), "unknown dtype 'F31'"),
    "fields": (file_of({"w": {"dtype": "F32"}}), "expected dtype, shape"),
    "negative": (file_of({"w": entry(offsets=(-4, 0))}, bytes(4)), "data_offsets"),
    "reversed": (file_of({"w": entry(offsets=(4, 0))}, bytes(4)), "lie outside"),
    "out of range": (file_of({"w": entry(offsets=(4, 8))}, bytes(4)), "lie outside"),
    "wrong size": (file_of({"w": entry(shape=(2,))}, bytes(4)), "needs 8 bytes, has 4"),
    "bool size": (file_of({"w": entry(shape=(True,))}, bytes(4)), "not a list of sizes"),
    "overlap": (file_of({"a": entry(), "b": entry()}, bytes(4)), "overlaps"),
    "hole": (file_of({"a": entry(offsets=(4, 8))}, bytes(8)), "leaves a hole"),
    "rest": (file_of({"a": entry()}, bytes(8)), "belong to no tensor"),
    "metadata": (file_of({"__metadata__": {"a": 1}}), "not a map of strings"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(tmp_path, name):
    content, message = BAD_FILES[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightSpaceError, match=rf"bad\.safetensors: .*{message}"):
        ws.io.load(path)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_flipped_bytes_never_do_worse_than_our_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    raw = bytearray(file_of({"a": entry(), "b": entry("F16", (2,), (4, 8))}, bytes(8)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        for value in ws.io.load(path).values():
            value.tobytes()
    except WeightSpaceError:
        pass


def test_bad_indices_are_named(tmp_path):
    ws.io.save({"a": np.zeros(3), "b": np.zeros(3)}, tmp_path / "m", shard_bytes=24)
    path = tmp_path / "m/model.safetensors.index.json"
    good = json.loads(path.read_text())
    first, second = good["weight_map"].values()
    for where, message in [
        ({"a": "../x.safetensors"}, "not a plain file name"),
        ({"a": "/etc/passwd"}, "not a plain file name"),
        ({"a": first, "b": "gone.safetensors"}, "no such file"),
        ({"a": second, "b": first}, "the index says"),
        ({"a": first, "b": second, "c": second}, "has no tensor 'c'"),
        ([], "no weight_map"),
    ]:
        path.write_text(json.dumps({"weight_map": where}))
        with pytest.raises(WeightSpaceError, match=message):
            ws.io.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth", "m.ckpt", "m.pkl", "m.npy"])
def test_what_could_run_code_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(WeightSpaceError, match=r"whatever code|no leaf name"):
        ws.io.load(tmp_path / name)
    if name == "m.bin":
        with pytest.raises(WeightSpaceError, match="whatever code"):
            ws.io.load(tmp_path)


def test_npz_of_objects_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], object))
    with pytest.raises(WeightSpaceError, match="objects are pickles"):
        ws.io.load(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightSpaceError, match="not an npz"):
        ws.io.load(tmp_path / "y.npz")
    with pytest.raises(WeightSpaceError, match="npz cannot hold bfloat16"):
        ws.io.save({"a": np.zeros(2, ml_dtypes.bfloat16)}, tmp_path / "z.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    ws.io.save({"a": np.zeros(3)}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(WeightSpaceError, match="the disk is full; nothing was kept"):
        ws.io.save({"a": np.ones(3)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_too_small_a_disk_is_known_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10})())
    with pytest.raises(WeightSpaceError, match="needs 24 bytes, the disk has 10"):
        ws.io.save({"a": np.zeros(3)}, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_replaced_keeps_the_old_on_error_and_replaces_a_stale_partial(tmp_path):
    target = tmp_path / "r.json"
    target.write_text("old")
    atomic.partial_name(target).write_text("stale")
    with pytest.raises(FileNotFoundError), atomic.replaced(target) as partial:
        partial.with_name("not there").read_text()
    assert target.read_text() == "old"
    assert not atomic.partial_name(target).exists()


def test_config_and_tokenizer_are_carried_byte_for_byte(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir(), target.mkdir()
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]:
        (source / name).write_bytes(name.encode() + b"\r\n\xff")
    (source / "pytorch_model.bin").write_bytes(b"x")
    assert ws.io.carry_files(source, target) == [
        "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    assert all(
        (target / p.name).read_bytes() == (source / p.name).read_bytes() for p in target.iterdir()
    )
