"""Experts near a base, drawn alike for the tests of merging."""

import numpy as np


def draw(shapes, count=3, seed=0):
    """`(population, base)` in float32, by the names of `shapes`."""
    rng = np.random.default_rng(seed)
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return {
        n: (b + 0.3 * rng.normal(size=(count, *b.shape))).astype(np.float32)
        for n, b in base.items()
    }, base
