"""Adapters that change a model leaf by leaf."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.adapt import layouts
from wslax.adapter import Adapter, from_apply
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.globs import pick
from wslax.symmetry.matrices import MatrixAxes, matrix_axes, warn_left_out
from wslax.symmetry.types import Groups
from wslax.trace.leaves import is_factored
from wslax.typing import Key, Params, Where

Parts = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def leaves_of(params: Params) -> tuple[dict[str, Any], Any]:
    """Name to leaf, factored ones whole, and the structure of the tree."""
    leaves, structure = jax.tree.flatten(params, is_leaf=is_factored)
    marks = structure.unflatten(range(len(leaves)))
    return dict(zip(tree.leaf_names(marks), leaves, strict=True)), structure


def _matrices(named: Mapping[str, Any], structure: Any, groups: Groups | None) -> dict[str, Any]:
    """The leaves that are matrices of floats, and their axes."""
    spec = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_factored(leaf) else leaf
        for leaf in named.values()
    ]
    found = matrix_axes(structure.unflatten(spec), groups)
    return {name: axes for name, axes in found.items() if 0 not in named[name].shape}


def _picked(named: Mapping[str, Any], fits: Mapping[str, Any], where: Where, what: str) -> set[str]:
    """The names that `where` picks, all of which have to fit."""
    if where is None:
        found = list(fits)
    else:
        found = [n for n, yes in zip(named, pick(list(named), where), strict=True) if yes]
    for name in found:
        if name not in fits:
            raise WeightSpaceError(f"{name}: expected {what}, got {tree.aval(named[name])}")
    if not found:
        raise WeightSpaceError(f"no leaf to adapt: expected {what}")
    return set(found)


def _check_names(names: set[str], parts: Params, what: str, named: Mapping[str, Any]) -> None:
    for name in parts:
        if name not in named:
            hint = did_you_mean(name, named)
            raise WeightSpaceError(f"{what} has parts for {name!r}, which the model lacks.{hint}")
    for name in sorted(names.symmetric_difference(parts)):
        says = "lacks parts for it" if name in names else "has parts for it, which it does not pick"
        raise WeightSpaceError(f"{name}: {what} {says}; give the adapter the where= it began with")


def _check_shapes(name: str, leaf: Any, expected: Shapes, parts: Parts) -> None:
    got = {part: tuple(jnp.shape(x)) for part, x in parts.items()}
    if got == expected:
        return
    many = got.keys() == expected.keys() and all(got[p][1:] == s for p, s in expected.items())
    said = [
        ", ".join(f"{part} {list(shape)}" for part, shape in shapes.items()) or "nothing"
        for shapes in (expected, got)
    ]
    raise WeightSpaceError(
        f"{name}: for {tree.aval(leaf)} the adapter expects {said[0]}, got {said[1]}; "
        + ("map a population of adapters: `jax.vmap`" if many else "they are another adapter's")
    )


def leafwise(
    start: Callable[[Key, str, Any], tuple[Parts, Parts]],
    change: Callable[[Any, Parts], Any],
    where: Where = None,
    groups: Groups | None = None,
    *,
    whole: bool = False,
) -> Adapter:
    """An adapter from what it is for one matrix `[in, out]`.

    Leaves in other layouts are turned into such matrices and back: by `groups` the axes of a leaf
    are consumed (in), produced (out), or a batch, as layers stacked for a scan are. Parts of a
    batch are stacked, `[*batch, ...]`. A leaf may be factored already; then it is the base of the
    change, and adapters stack.

    Args:
      start: `(key, name, leaf) -> (train, fixed)`, two dicts of arrays without a name in common;
        their shapes are a function of the leaf's. It draws by `random.bits(key, f"adapt/{name}")`.
      change: `(leaf, parts) -> leaf`, an array or factored; `parts` are both dicts in one.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry; without it leaves with two axes are `[in, out]`, as in Flax,
        and others are no matrices.
      whole: leaves of floats come as they are, of any shape.

    Returns:
      The adapter. All parts are checked for names and shapes before any work.
    """
    what = "floats"
    if not whole:
        what = "a matrix of floats " + ("by the groups" if groups else "[in, out], or groups=")

    def found(params: Params) -> tuple[dict[str, Any], Any, dict[str, MatrixAxes]]:
        named, structure = leaves_of(params)
        if whole:
            fits = {name: layouts.PLAIN for name, leaf in named.items() if tree.is_float(leaf)}
        else:
            fits = _matrices(named, structure, groups)
        names = _picked(named, fits, where, what)
        return named, structure, {name: fits[name] for name in named if name in names}

    def begun(key: Key, name: str, leaf: Any, axes: MatrixAxes) -> tuple[Parts, Parts]:
        """The parts of a leaf, stacked for a batch of matrices."""
        sizes = () if whole else layouts.batch(leaf, axes)
        if sizes:
            words = random.bits(key, f"adapt/{name}/batch", 2 * math.prod(sizes), xp=jnp)
            key = words.reshape(*sizes, 2)
        each = layouts.over(lambda key, leaf: start(key, name, leaf), sizes)
        return each(key, leaf if whole else layouts.matrices(name, leaf, axes))

    known: dict[Any, tuple[Shapes, Shapes]] = {}

    def expected(name: str, leaf: Any, axes: MatrixAxes) -> tuple[Shapes, Shapes]:
        """Shapes of the parts of such a leaf, traced once for all of a kind."""
        kind = tuple(leaf.shape), leaf.dtype, axes
        if kind not in known:
            spec, key = jax.ShapeDtypeStruct(*kind[:2]), jax.random.key(0)
            parts = jax.eval_shape(lambda leaf: begun(key, name, leaf, axes), spec)
            train, fixed = ({part: x.shape for part, x in each.items()} for each in parts)
            known[kind] = train, fixed
        return known[kind]

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        named, _, axes = found(params)
        if not whole:
            warn_left_out("nothing is adapted in", named, where, groups)
        parts = {name: begun(key, name, named[name], axes[name]) for name in axes}
        train, fixed = ({name: dict(p[i]) for name, p in parts.items()} for i in (0, 1))
        return train, fixed

    def changed(leaf: Any, name: str, axes: MatrixAxes, parts: Parts) -> Any:
        if whole:
            new = change(leaf, parts)
        else:
            each = layouts.over(change, layouts.batch(leaf, axes))
            new = layouts.laid(each(layouts.matrices(name, leaf, axes), parts), leaf, axes)
        return new if is_factored(new) else tree.cast_like(new, leaf)

    def apply(params: Params, train: Any, fixed: Any) -> Params:
        named, structure, axes = found(params)
        for parts, word in ((train, "train"), (fixed, "fixed")):
            _check_names(set(axes), parts, word, named)
        for name, leaf_axes in axes.items():
            shapes = expected(name, named[name], leaf_axes)
            for parts, shape in zip((train, fixed), shapes, strict=True):
                _check_shapes(name, named[name], shape, parts[name])
        for name, leaf_axes in axes.items():
            parts = {**train[name], **fixed[name]}
            named[name] = changed(named[name], name, leaf_axes, parts)
        return structure.unflatten(named.values())

    return from_apply(init, apply)
