"""Carrying a tree to another number of blocks: weights and moments by the same copies."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.grow.orders import Layer
from wslax.grow.stacks import Stack, numbered
from wslax.symmetry import layout
from wslax.symmetry.find import locate
from wslax.typing import Params


class DepthPlan(NamedTuple):
    """A stack, the blocks it becomes, and the leaves of a block that are zero in some of them."""

    stack: Stack
    layers: tuple[Layer, ...]
    zero: frozenset[str]


def _mean(a: Any, b: Any) -> Any:
    """The mean of two arrays of floats; of others the first."""
    if not tree.is_float(a):
        return a
    wide = tree.wide(a)
    out = (a.astype(wide) + b.astype(wide)) / 2
    return out.astype(a.dtype) if isinstance(a, np.ndarray) else tree.cast_like(out, a)


def _zeros(leaf: Any) -> Any:
    if tree.is_key(leaf):
        return leaf
    xp = np if isinstance(leaf, np.ndarray) else jnp
    return xp.zeros_like(leaf)


def _leaf(values: list[Any], layer: Layer, zero: bool) -> Any:
    """One leaf of a new block. Copies are arrays of their own, so that all can be donated."""
    if not hasattr(values[0], "shape"):
        return values[0]
    if zero:
        return _zeros(values[0])
    value = values[0] if len(values) == 1 else _mean(*values)
    return value.copy() if layer.new and hasattr(value, "copy") else value


def _stacked(leaf: Any, axis: int, plan: DepthPlan, zero: list[bool]) -> Any:
    """A leaf with the layer axis."""
    if not hasattr(leaf, "shape"):
        return leaf
    xp = np if isinstance(leaf, np.ndarray) else jnp
    first = np.array([layer.sources[0] for layer in plan.layers])
    last = np.array([layer.sources[-1] for layer in plan.layers])
    along = lambda values: layout.across(values, axis, leaf.ndim)
    out = xp.take(leaf, first, axis)
    if (first != last).any():
        mixed = _mean(out, xp.take(leaf, last, axis))
        out = xp.where(along(first != last), mixed, out)
    if any(zero):
        out = xp.where(along(np.array(zero)), _zeros(out), out)
    return out if isinstance(out, np.ndarray) else tree.cast_like(out, leaf)


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _children(node: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The children of a node with their keys, and how to build it again from them."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return [(jax.tree_util.keystr(path, simple=True), child) for path, child in pairs], structure


class _Entry(NamedTuple):
    """An item of a container that belongs to a block: the number, and its key around it."""

    number: int
    head: str
    tail: str
    value: Any


def _entry(path: str, key: Any, value: Any, prefixes: set[str]) -> _Entry | None:
    name = _join(path, key)
    for prefix in prefixes:
        found = numbered(name, prefix)
        if found is not None:
            head = name[len(name) - len(str(key)) : len(prefix)]
            return _Entry(found[0], head, found[1], value)
    return None


def _renumbered(plan: DepthPlan, numbers: list[int]) -> Iterator[tuple[Layer, list[int], int]]:
    """`(block, numbers it comes from, its new number)` for all members of the family."""
    stack, more = plan.stack, len(plan.layers) - plan.stack.depth
    end = stack.first + stack.depth
    kept = lambda number: Layer((number,), new=False, zero=False)
    yield from ((kept(n), [n], n) for n in numbers if n < stack.first)
    for j, layer in enumerate(plan.layers):
        yield layer, [stack.first + i for i in layer.sources], stack.first + j
    yield from ((kept(n), [n], n + more) for n in numbers if n >= end)


def _container(node: Any, items: list[tuple[Any, Any]]) -> Any:
    """A mapping or sequence of the type of `node`."""
    if isinstance(node, Mapping):
        return type(node)(dict(items))  # type: ignore[call-arg]
    return type(node)(value for _, value in items)


def _rebuilt(node: Any, path: str, prefixes: set[str], plan: DepthPlan, block: Any) -> Any:
    """A tree with the blocks of its containers renumbered and made anew by `block`."""
    if isinstance(node, (Mapping, list)) or type(node) is tuple:
        pairs = [*(node.items() if isinstance(node, Mapping) else enumerate(node))]
        entries = {key: _entry(path, key, value, prefixes) for key, value in pairs}
        members = [entry for entry in entries.values() if entry is not None]
        if members:
            numbers = sorted({entry.number for entry in members})
            made = []
            for layer, sources, number in _renumbered(plan, numbers):
                for first in (e for e in members if e.number == sources[0]):
                    key = f"{first.head}{plan.stack.text(number)}{first.tail}"
                    name = _join(path, f"{first.head}{plan.stack.text(sources[0])}{first.tail}")
                    alike = {e.number: e.value for e in members if _around(e) == _around(first)}
                    made.append((key, block(name, [alike[n] for n in sources], layer)))
            integer = any(isinstance(key, int) for key in entries)
            made = [(int(key) if integer else key, value) for key, value in made]
            others = [(key, value) for key, value in pairs if entries[key] is None]
            before = next(k for k, (key, _) in enumerate(pairs) if entries[key] is not None)
            return _container(node, [*others[:before], *made, *others[before:]])
    children, structure = _children(node)
    if len(children) == 1 and children[0][1] is node:
        return node
    out = [_rebuilt(child, _join(path, key), prefixes, plan, block) for key, child in children]
    return jax.tree.unflatten(structure, out)


def _around(entry: _Entry) -> tuple[str, str]:
    return entry.head, entry.tail


def carry(
    params: Params, plan: DepthPlan, *, weight: int = 0, gradient: int = 0, old_only: bool = False
) -> Params:
    """A tree shaped like the parameters with the new blocks: `Moves.carry`.

    Moments are copied (or averaged) with their blocks whatever the powers: the gradients of two
    copies differ from each other and from the old one, so no exact rule exists.

    Args:
      params: what `symmetry.locate` takes.
      plan: the blocks.
      weight: as in `Moves`.
      gradient: as in `Moves`.
      old_only: whether all leaves of new blocks are zero.

    Returns:
      The tree.
    """
    stack = plan.stack
    found = locate(params, stack.groups)
    zero = lambda leaf, layer: (layer.zero and leaf in plan.zero) or (layer.new and old_only)
    if stack.axes is not None:
        axes = dict(zip(stack.leaves, stack.axes, strict=True))

        def change(name: str, leaf: Any) -> Any:
            if name not in found:
                return leaf
            zeros = [zero(found[name], layer) for layer in plan.layers]
            return _stacked(leaf, axes[found[name]], plan, zeros)

        return tree.map_named(change, params)

    leaf_of = {name: leaf for name, (_, leaf) in stack.members().items()}
    prefixes = set()
    for name, original in found.items():
        place = leaf_of[original].index("*")
        prefixes.add(name[: len(name) - len(original) + place])

    def block(name: str, values: list[Any], layer: Layer) -> Any:
        def one(below: str, *leaves: Any) -> Any:
            full = _join(name, below) if below else name
            return _leaf(list(leaves), layer, zero(leaf_of.get(found.get(full, "")), layer))

        return tree.map_named(one, *values)

    return _rebuilt(params, "", prefixes, plan, block)
