"""The nets of the symmetry tests as growth meets them: fed with numbers, built again when wider."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from tests.symmetry.zoo import ZOO
from wslax import WeightSpaceError, symmetry

# What the parameters cannot tell a net: keyword to the leaf, the axis and the place of its group.
COUNTED = {
    "gpt": {"heads": ("blocks/0/o", 0, 0)},
    "grouped_query_fused": {"keys": ("o", 0, 0), "per": ("o", 0, 1)},
}


jitted = functools.lru_cache(8)(jax.jit)  # one program for all methods that give one size


class Net(NamedTuple):
    """One net with random parameters, host arrays."""

    name: str
    apply: Any
    params: Any
    inputs: list[Any]
    groups: symmetry.Groups

    def rebuilt(self, groups, **options):
        """The model of the grown groups' size."""
        counts = {
            word: groups.at(leaf, axis)[place].size
            for word, (leaf, axis, place) in COUNTED.get(self.name, {}).items()
        }
        return ZOO[self.name](**counts, **options)[0]

    def change(self, edit, before, **options):
        """The largest change of an output, relative to the largest output."""
        apply = self.apply
        if self.name in COUNTED or options:
            apply = self.rebuilt(edit.groups, **options)
        after = np.asarray(jitted(apply)(edit.apply(self.params), *self.inputs))
        return float(np.abs(after - before).max() / np.abs(before).max())


def fed(inputs):
    """Numbers for inputs: normal ones, and tokens or nodes that exist."""
    keys = jr.split(jr.key(7), len(inputs))
    return [
        jr.normal(k, x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else x
        for k, x in zip(keys, inputs, strict=True)
    ]


def drawn(rng, leaf):
    """Numbers like trained ones: as `symmetry.check` draws them, on the host."""
    if leaf.ndim < 2:
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    fan_in = leaf.size // leaf.shape[-1]
    return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(leaf.dtype)


def net(name, **options):
    """A net of the zoo, its outputs, and its parameters drawn at random."""
    apply, params, inputs = ZOO[name](**options)
    inputs, rng = fed(inputs), np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: drawn(rng, leaf), params)
    groups = symmetry.infer(apply, params, *inputs)
    made = Net(name, apply, params, inputs, groups)
    return made, np.asarray(jitted(apply)(params, *inputs))


def accepted(groups, factor, widen):
    """Sizes of the groups that are widened, and the sentences about the others."""
    sizes, sentences = {}, {}
    for group in groups.free:
        size = int(np.ceil(factor * group.size))
        try:
            widen(groups, {group.id: size})
        except WeightSpaceError as refusal:
            sentences[group.id] = str(refusal)
        else:
            sizes[group.id] = size
    return sizes, sentences
