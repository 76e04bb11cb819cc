"""Numbers as people and JSON read them."""

import json

import numpy as np
import pytest

from wslax.recipes.result import Estimate, Table, plain, text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0.5, "percent", "50.0%"),
        (Estimate(0.5, 0.01), "percent", "50.0 ± 1.0%"),
        (Estimate(0.5, None), "percent", "50.0%"),
        (-0.02, "points", "−2.0"),
        (Estimate(0.02, 0.011), "points", "+2.0 ± 1.1"),
        (4e-6, "number", "4 × 10⁻⁶"),
        (12345, "count", "12,345"),
        (None, "percent", "–"),
        ("ties", "percent", "ties"),
    ],
)
def test_cells(value, kind, expected):
    assert text(value, kind) == expected


def test_json():
    table = Table("t", "T", (), ((np.float32(0.5), Estimate(1.0, None), np.arange(2)),))
    found = json.loads(json.dumps(plain(table)))
    assert found["rows"] == [[0.5, {"value": 1.0, "margin": None}, [0, 1]]]
    assert found["marked"] == []
