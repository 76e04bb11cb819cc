"""Whole recipes over folders against what mergekit made of the same files."""

import base64
import json
import pathlib

import folders
import ml_dtypes
import numpy as np
import pytest

import wslax as ws
from wslax.io.reader import open_tensors

REFERENCES = json.loads(pathlib.Path(__file__).with_name("mergekit_folders.json").read_text())


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    folders.make_folders(folder)
    return folder


def expected(name):
    found = {}
    for tensor, (dtype, shape, raw) in REFERENCES[name]["tensors"].items():
        x = np.frombuffer(base64.b64decode(raw), np.float32).reshape(shape)
        found[tensor] = x.astype(getattr(ml_dtypes, dtype, dtype))
    return found


def token_ids(out):
    content = json.loads((out / "tokenizer.json").read_text())
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    return {**content["model"]["vocab"], **added}


def merged(where, monkeypatch, recipe, out, **options):
    monkeypatch.chdir(where)
    ws.merge.checkpoints(recipe, out, **options)
    with open_tensors(where / out) as tensors:
        return {name: tensors.read(name).copy() for name in tensors}


@pytest.mark.parametrize("name", folders.RECIPES)
def test_equals_mergekit(where, tmp_path, monkeypatch, name):
    found = merged(where, monkeypatch, folders.RECIPES[name], tmp_path / "out")
    wanted = expected(name)
    assert set(found) == set(wanted)
    theirs = REFERENCES[name]["vocab"]
    if theirs is not None:
        ids = token_ids(tmp_path / "out")
        assert set(ids) == set(theirs)
    for tensor, x in wanted.items():
        assert found[tensor].dtype == x.dtype
        a, b = found[tensor].astype(float), x.astype(float)
        if theirs is not None and ("embed" in tensor or "head" in tensor):
            # mergekit hands out the ids of new tokens in the order of a hash table
            assert len(a) == len(b)
            rows = np.arange(len(a))
            rows[[ids[token] for token in theirs]] = list(theirs.values())
            b = b[rows]
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=tensor)
    if theirs is not None and "base_model" in folders.RECIPES[name]:
        base = token_ids(where / folders.RECIPES[name]["base_model"])
        assert {token: ids[token] for token in base if token in ids} == {
            token: theirs[token] for token in base if token in theirs
        }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: config[k] for k in REFERENCES[name]["config"]} == REFERENCES[name]["config"]
