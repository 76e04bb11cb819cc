"""All merging methods by name; the registry drives the CLI, the docs table and the tests."""

from collections import ChainMap

from wslax.merge import averages, energy, overlap, pairs, spherical, task_vectors
from wslax.merge.further import FURTHER
from wslax.merge.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        averages.linear,
        spherical.slerp,
        spherical.nuslerp,
        spherical.multislerp,
        spherical.karcher,
        spherical.model_stock,
        task_vectors.task_arithmetic,
        task_vectors.ties,
        task_vectors.dare_linear,
        task_vectors.dare_ties,
        task_vectors.della_linear,
        task_vectors.della,
        task_vectors.breadcrumbs,
        task_vectors.breadcrumbs_ties,
        energy.sce,
        overlap.ram,
        overlap.ramplus_tl,
        pairs.nearswap,
        pairs.arcee_fusion,
        averages.passthrough,
    )
}

# What recipes and the command know.
ON_DISK = ChainMap(METHODS, FURTHER)
