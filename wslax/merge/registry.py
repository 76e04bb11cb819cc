"""All merging methods by name; the registry drives the CLI, the docs table and the tests."""

from wslax.merge import averages, spherical, task_vectors
from wslax.merge.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        averages.linear,
        spherical.slerp,
        task_vectors.task_arithmetic,
        task_vectors.ties,
        task_vectors.dare_linear,
        task_vectors.dare_ties,
        averages.passthrough,
    )
}
