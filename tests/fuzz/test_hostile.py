"""A sample of `hostile.py`, which runs by the hundred thousand, and inputs at the limits."""

import json
import struct
import time

import pytest
from hostile import SECONDS, Originals, attempt

from wslax import WeightSpaceError
from wslax.io.convert import read_map
from wslax.io.reader import open_tensors
from wslax.merge.files.config import read_recipe
from wslax.merge.mixture import mixture


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sample_of_damaged_files(tmp_path, seed):
    originals = Originals(tmp_path)
    outcomes = {attempt(number, seed, originals) for number in range(100)}
    assert outcomes == {"accepted", "refused"}


HEADERS = {
    "10 MB of nested lists": b"[" * 10_000_000,
    "10 MB of nested names": b'{"a":' * 2_000_000,
    "10 MB of digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000_000 + b"]}}",
    "a name of 10 MB": json.dumps({"n" * 10_000_000: 1}).encode(),
    "a name twice": b'{"a":1,"a":2}',
    "half a character": b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "no array": b'{"a":{"dtype":"U8","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}}',
    "65 axes": b'{"a":{"dtype":"U8","shape":' + str([1] * 65).encode() + b',"data_offsets":[0,0]}}',
    "not a number": b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}',
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers(tmp_path, kind):
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(HEADERS[kind])) + HEADERS[kind])
    begin = time.perf_counter()
    with pytest.raises(WeightSpaceError) as caught:
        open_tensors(file)
    assert time.perf_counter() - begin < SECONDS
    assert len(str(caught.value)) < 4000


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "laughs": BOMB,
    "10 MB of nested lists": "[" * 10_000_000,
    "many nested lists": "a: " + "[" * 100_000,
    "many names": "".join(f"a{i}: 1\n" for i in range(5_000)),
    "a number of base 60": "1" + ":59" * 60_000,
    "a hexadecimal number": "a: 0x" + "f" * 100_000,
    "a date that is none": "2020-99-99",
    "a command": "!!python/object/apply:os.system ['true']",
    "tags that lie": "!!bool x",
    "a merge of keys": "<<: {a: b}",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("read", [read_recipe, read_map, lambda path: mixture(path, "out")])
def test_recipes(tmp_path, kind, read):
    file = tmp_path / "x.yaml"
    file.write_text(TEXTS[kind])
    begin = time.perf_counter()
    with pytest.raises(WeightSpaceError) as caught:
        read(file)
    assert time.perf_counter() - begin < SECONDS
    assert len(str(caught.value)) < 4000
