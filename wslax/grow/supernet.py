"""Supernets: one set of weights for all widths, by slices or by mixtures of experts."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.actions import take
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params, Population

ROUTINGS = ("layer", "neuron")
_BLIND = ("sum", "mean", "variance", "softmax")


class Space(NamedTuple):
    """Which groups are elastic, and the sizes that each may have. Hashable, without arrays.

    Attributes:
      groups: the groups of the largest net.
      choices: `(group id, sizes)`, sizes ascending.
    """

    groups: Groups
    choices: tuple[tuple[int, tuple[int, ...]], ...]


class Router(NamedTuple):
    r"""\(\mathrm{softmax}(W_2\,\mathrm{relu}(W_1 e))\) over the experts.

    Attributes:
      inner: \(W_1\), `[elastic groups, hidden]`.
      outer: \(W_2\), `[hidden, experts]`, or `[hidden, *neurons, experts]`.
    """

    inner: Array
    outer: Array


class Supernet(NamedTuple):
    """What is trained: a tree of arrays.

    Attributes:
      params: the largest net; leaves that are mixed are `[experts, ...]`.
      routers: by the name of the first leaf that each one mixes.
    """

    params: Params
    routers: dict[str, Router]


def space(groups: Groups, choices: Mapping[int, Any]) -> Space:
    """The architectures of a supernet.

    Args:
      groups: the groups of the largest net.
      choices: id of each elastic group to the sizes it may have.

    Returns:
      The space. An *architecture* of it is `{id: size}`; sizes that only mask may be traced.

    Raises:
      WeightSpaceError: if a group is unknown or frozen, a size does not fit it, or the model sums,
        averages or normalises over its units: there a unit of zeros counts, and a mask is no slice.

    Example:
        >>> import jax, wslax as ws
        >>> params = ws.nets.mlp(4, [8, 8], 3).init(jax.random.key(0))
        >>> groups = ws.symmetry.feed_forward(params, ["hidden_0", "hidden_1", "out"])
        >>> space(groups, {0: (2, 4, 8), 1: (4, 8)}).choices
        ((0, (2, 4, 8)), (1, (4, 8)))
    """
    found = []
    for id, sizes in sorted(choices.items()):
        group, sizes = check_id(groups, id), tuple(sorted(set(sizes)))
        if not sizes or sizes[0] < 1 or sizes[-1] > group.size:
            raise WeightSpaceError(
                f"group {id}: sizes are 1 to {group.size}, got {list(choices[id])}"
            )
        for word in group.reductions:
            if word in _BLIND:
                raise WeightSpaceError(
                    f"group {id}: the model takes a {word} over its units, in which units of zeros "
                    "count too, so a masked net is not the smaller one; leave the group out"
                )
        found.append((id, sizes))
    if not found:
        raise WeightSpaceError("choices: expected at least one group, got none")
    return Space(groups, tuple(found))


def _neurons(name: str, ndim: int, groups: Groups) -> tuple[int, ...]:
    """The axes of a leaf that tell the units it computes."""
    sites = [site for group in groups.all for site in group.sites if site.name == name]
    for role in ("produced", "elementwise"):
        axes = {site.axis for site in sites if site.role == role}
        if axes:
            return tuple(sorted(axes))
    return (ndim - 1,) if ndim else ()


def _heads(params: Params, space: Space) -> dict[str, str]:
    """The leaves that are mixed, each with the first of those that share its router.

    They are those of one module that tell the same units.
    """
    owner = lambda name: name.rpartition("/")[0] or name
    elastic = {owner(s.name) for id, _ in space.choices for s in space.groups.all[id].sites}
    found: dict[str, str] = {}
    heads: dict[Any, str] = {}
    for name, leaf in tree.named_leaves(params).items():
        if owner(name) in elastic and tree.is_float(leaf):
            axes = _neurons(name, len(leaf.shape), space.groups)
            units = tuple(leaf.shape[axis] for axis in axes)
            found[name] = heads.setdefault((owner(name), units), name)
    return found


def init(
    key: Key, experts: Population, space: Space, *, routing: str = "neuron", hidden: int = 128
) -> Supernet:
    r"""A supernet whose layers are mixtures of the layers of several nets.

    In every module that an elastic group runs through, the floats of all experts are kept, and a
    router weighs them by the architecture's code \(e\), its sizes scaled to 0 (least) and 1 (most):

    \[W = \sum_m r_m W_m \text{ (layer)}, \qquad
      W_{j} = \sum_m r_{jm} W_{mj} \text{ for each unit } j \text{ (neuron)}, \qquad
      r = \mathrm{softmax}(W_2\, \mathrm{relu}(W_1 e)).\]

    The rest of the net is the first expert's. With one expert it is the plain supernet, whose
    subnets are slices of one weight.

    Args:
      key: draws the routers: normal, with variance one over the fan-in.
      experts: nets of the largest size, such as `population.init(init_fn, key, 2)` makes; the
        paper takes 2.
      space: the architectures.
      routing: `"neuron"` (default, the paper's better one) or `"layer"`.
      hidden: width of the routers; 128 in the authors' code.

    Returns:
      The supernet, all of it to be trained by the gradient through `materialise`.

    Raises:
      WeightSpaceError: for an unknown routing, or if the tree is not the groups' model.

    References:
      Jawahar et al. 2024, Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with
      Architecture-Routed Mixture-of-Experts, arXiv:2306.04845. One router serves a module (kernel
      and bias), and the scale and shift of a batch normalisation are mixed as well.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.mlp(4, [8, 8], 3)
        >>> experts = ws.population.init(net.init, jax.random.key(0), 2)
        >>> groups = ws.symmetry.feed_forward(
        ...     ws.population.member(experts, 0), ["hidden_0", "hidden_1", "out"])
        >>> space = ws.grow.supernet.space(groups, {0: (2, 4, 8), 1: (4, 8)})
        >>> supernet = ws.grow.supernet.init(jax.random.key(1), experts, space)
        >>> small = ws.grow.supernet.collapse(supernet, space, {0: 2, 1: 4})
        >>> small["hidden_1"]["kernel"].shape
        (2, 4)
    """
    if routing not in ROUTINGS:
        raise WeightSpaceError(f"routing {routing!r} is unknown; expected one of {ROUTINGS}")
    first = jax.tree.map(lambda leaf: leaf[0], experts)
    if any(name != original for name, original in locate(first, space.groups).items()):
        raise WeightSpaceError(
            "experts: the leaves have other names than in the groups; give the tree that the "
            "groups were made for"
        )
    count = jax.tree.leaves(experts)[0].shape[0]
    heads, named = _heads(first, space), tree.named_leaves(first)

    def draw(name: str, *shape: int) -> Array:
        words = random.bits(key, f"grow/supernet/{name}", math.prod(shape), xp=jnp)
        return random.normal(words).reshape(shape) / np.float32(np.sqrt(shape[0]))

    routers = {}
    for name in dict.fromkeys(heads.values()) if count > 1 else ():
        axes = _neurons(name, named[name].ndim, space.groups) if routing == "neuron" else ()
        units = [named[name].shape[axis] for axis in axes]
        inner = draw(f"{name}/inner", len(space.choices), hidden)
        routers[name] = Router(inner, draw(f"{name}/outer", hidden, *units, count))
    params = tree.map_named(lambda name, x: x if name in heads else x[0], experts)
    return Supernet(params, routers)


def _code(space: Space, architecture: Mapping[int, Any]) -> Array:
    if set(architecture) != {id for id, _ in space.choices}:
        raise WeightSpaceError(
            f"architecture: expected a size for each of the groups "
            f"{[id for id, _ in space.choices]}, got {list(architecture)}"
        )
    return jnp.stack([
        (jnp.asarray(architecture[id], jnp.float32) - sizes[0]) / max(sizes[-1] - sizes[0], 1)
        for id, sizes in space.choices
    ])  # fmt: skip


def _weights(router: Router, code: Array) -> Array:
    """How much of each expert, `[experts]` or `[*neurons, experts]`."""
    scores = jnp.tensordot(jax.nn.relu(code @ router.inner), router.outer, 1)
    return jax.nn.softmax(scores, -1)


def _mix(leaf: Array, weights: Array, axes: tuple[int, ...]) -> Array:
    """The sum over experts of a leaf `[experts, ...]`, half types by way of float32."""
    wide = tree.wide(leaf)
    shape = [leaf.shape[0]] + [1] * (leaf.ndim - 1)
    for axis in axes if weights.ndim > 1 else ():
        shape[1 + axis] = leaf.shape[1 + axis]
    mixed = (jnp.moveaxis(weights, -1, 0).reshape(shape).astype(wide) * leaf.astype(wide)).sum(0)
    return tree.cast_like(mixed, leaf)


def materialise(supernet: Supernet, space: Space, architecture: Mapping[int, Any]) -> Params:
    """An architecture as parameters of the largest net, zero at all units beyond its sizes.

    What reads such units reads zeros, so the net computes what the smaller one does, at the cost
    of the largest: made for training, where many architectures go through one compiled program.

    Args:
      supernet: from `init`.
      space: its space.
      architecture: `{id: size}`, integers or traced scalars; `jax.vmap` takes many at once.

    Returns:
      Plain parameters, for the model's own apply.

    Raises:
      WeightSpaceError: if the architecture names other groups than the space.

    Example:
        >>> import jax, wslax as ws
        >>> params = ws.nets.mlp(2, [3], 2).init(jax.random.key(0))
        >>> space = ws.grow.supernet.space(
        ...     ws.symmetry.feed_forward(params, ["hidden_0", "out"]), {0: (1, 3)})
        >>> plain = ws.grow.supernet.init(0, ws.population.stack([params]), space)
        >>> masked = ws.grow.supernet.materialise(plain, space, {0: 1})
        >>> (masked["out"]["kernel"] != 0).any(1).tolist()
        [True, False, False]
    """
    code, groups = _code(space, architecture), space.groups
    without_experts = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    heads = _heads(jax.tree.map(without_experts, supernet.params), space)
    sites = [(site, architecture[id]) for id, _ in space.choices for site in groups.all[id].sites]

    def leaf_of(name: str, leaf: Array) -> Array:
        if name in heads and supernet.routers:
            axes = _neurons(name, leaf.ndim - 1, groups)
            leaf = _mix(leaf, _weights(supernet.routers[heads[name]], code), axes)
        elif name in heads:
            leaf = leaf[0]
        for site, size in sites:
            if site.name == name:
                inside = layout.units(site, leaf.shape[site.axis]) < size
                inside = layout.across(jnp.asarray(inside), site.axis, leaf.ndim)
                leaf = jnp.where(inside, leaf, jnp.zeros_like(leaf))
        return leaf

    return tree.map_named(leaf_of, supernet.params)


def collapse(supernet: Supernet, space: Space, architecture: Mapping[int, int]) -> Params:
    """A subnet on its own: experts mixed, routers gone, and every axis of its own size.

    Args:
      supernet: from `init`.
      space: its space.
      architecture: `{id: size}`, static; need not be one of the choices.

    Returns:
      Plain parameters of the smaller model, which computes what `materialise` does up to rounding.

    Raises:
      WeightSpaceError: if the architecture names other groups than the space, or a size does not
        fit.

    Example: see `init`.
    """
    full = materialise(supernet, space, architecture)
    return take(full, space.groups, {id: np.arange(size) for id, size in architecture.items()})


def sandwich(key: Key, space: Space, count: int = 1) -> dict[int, Array]:
    """The architectures of a training step: the biggest, the smallest, and some at random.

    Sum their losses (Yu and Huang 2019, arXiv:1903.05134); the biggest comes first, so that its
    outputs may teach the others.

    Args:
      key: a JAX key, a new one each step; may be traced.
      space: the space.
      count: how many at random, each group's size by itself; 1 in Mixture-of-Supernets.

    Returns:
      `{id: int32 [2 + count]}`, for `jax.vmap` over `materialise`.

    Example:
        >>> import jax, wslax as ws
        >>> params = ws.nets.mlp(2, [8], 2).init(jax.random.key(0))
        >>> space = ws.grow.supernet.space(
        ...     ws.symmetry.feed_forward(params, ["hidden_0", "out"]), {0: (2, 4, 8)})
        >>> ws.grow.supernet.sandwich(jax.random.key(0), space, 2)[0][:2].tolist()
        [8, 2]
    """
    found: dict[int, Array] = {}
    for id, sizes in space.choices:
        words = random.bits(key, f"grow/sandwich/{id}", count, xp=jnp)
        drawn = jnp.asarray(sizes, jnp.int32)[words % np.uint32(len(sizes))]
        ends = jnp.asarray([sizes[-1], sizes[0]], jnp.int32)
        found[id] = jnp.concatenate([ends, drawn])
    return found
