"""`ligo_depth`: new blocks as learned linear combinations of old ones."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.grow.depth import planned
from wslax.grow.layers import DepthPlan, carry
from wslax.grow.learned import Operator, uniform
from wslax.grow.regroup import regrouped
from wslax.grow.stacks import Stack
from wslax.symmetry.along import check_mixable
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params, Where


def _coefficients(plan: DepthPlan, noise: float, key: Key) -> dict[str, Array]:
    """Leaf of a block to `[new blocks, old blocks]`: what `deepen` does, and noise; sums are 1."""
    depth = plan.stack.depth
    onto = np.zeros((len(plan.layers), depth), np.float32)
    for row, layer in zip(onto, plan.layers, strict=True):
        row[list(layer.sources)] = 1 / len(layer.sources)
    zero = np.array([[layer.zero] for layer in plan.layers])

    def of(leaf: str) -> Array:
        rows = jnp.where(onto > 0, onto, noise * uniform(key, leaf, *onto.shape))
        rows = rows / rows.sum(1, keepdims=True)
        return jnp.where(zero, 0, rows) if leaf in plan.zero else rows

    return {leaf: of(leaf) for leaf in plan.stack.leaves}


def _mixed(coefficients: Array, leaves: Array, axis: int, name: str) -> Array:
    """Blocks along an axis, mixed in float32 where they are of a half type."""
    check_mixable(name, leaves)
    wide = tree.wide(leaves)
    out = jnp.tensordot(coefficients.astype(wide), leaves.astype(wide), (1, axis))
    return jnp.moveaxis(out, 0, axis).astype(leaves.dtype)


def _made(maps: dict[str, Array], params: Params, stack: Stack, depth: int) -> dict[str, Array]:
    """The leaves of all new blocks by name, as in the tree."""
    leaves, found = tree.named_leaves(params), locate(params, stack.groups)
    if stack.axes is not None:
        axes = dict(zip(stack.leaves, stack.axes, strict=True))
        at = lambda name, leaf: _mixed(maps[leaf], jnp.asarray(leaves[name]), axes[leaf], name)
        return {name: at(name, leaf) for name, leaf in found.items()}
    members, made = stack.members(), {}
    of_block: dict[tuple[str, str], list[Any]] = {}
    for name, original in sorted(found.items(), key=lambda pair: members[pair[1]][0]):
        prefix = name.removesuffix(original)
        of_block.setdefault((prefix, members[original][1]), []).append(jnp.asarray(leaves[name]))
    for (prefix, leaf), blocks in of_block.items():
        mixed = _mixed(maps[leaf], jnp.stack(blocks), 0, prefix + leaf)
        for block in range(depth):
            made[prefix + leaf.replace("*", stack.number(block))] = mixed[block]
    return made


def ligo_depth(
    model: Groups | Params,
    depth: int | Sequence[int],
    *,
    method: str = "stack",
    noise: float = 0.03,
    stack: str | Stack | None = None,
    zero: Where = None,
    key: Key,
) -> Operator:
    r"""A learned growth in depth: new blocks are linear combinations of the old ones.

    LiGO (Wang et al., arXiv:2303.00980, section 3.2): each leaf of block i becomes

    \[w'_i = \sum_l d_{il}\, w_l,\]

    with coefficients of its own for each leaf. They start as the blocks that `deepen` makes by
    `method`, plus uniform numbers in [0, `noise`), divided by their sum; the published code's
    choice is stacking with 0.03. Where identity blocks have zero projections, their coefficients
    start at zero, so `method="identity"` with `noise=0` begins at the old function.

    Args:
      model: as for `deepen`.
      depth: as for `deepen`.
      method: one of `deepen`'s.
      noise: of the coefficients at first.
      stack: as for `deepen`.
      zero: as for `deepen`.
      key: of the noise. May be traced.

    Returns:
      An `Operator` whose maps are `{leaf of a block: [new blocks, old blocks]}`. To grow in width
      as well, take `ligo_width` of its `groups`, as the published code does. Half types are mixed
      in float32.

    Raises:
      WeightSpaceError: where `deepen` raises; from `materialise`, naming the leaf, for a tree of
        another model or leaves of blocks that are no floats.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.transformer(11, 6, width=8, heads=2, depth=2)
        >>> params, tokens = net.init(jax.random.key(0)), jax.numpy.arange(10).reshape(2, 5)
        >>> groups = ws.symmetry.infer(net.apply, params, tokens)
        >>> deeper = ws.grow.ligo_depth(groups, 4, key=0)
        >>> wider = ws.grow.ligo_width(deeper.groups, {0: 12}, key=1)
        >>> grown = wider.materialise(wider.maps, deeper.materialise(deeper.maps, params))
        >>> sorted(name for name in grown if "block" in name)
        ['block_0', 'block_1', 'block_2', 'block_3']
    """
    plan = planned(model, depth, method, stack, zero)

    def materialise(maps: dict[str, Array], params: Params) -> Params:
        made = _made(maps, params, plan.stack, len(plan.layers))
        deep = carry(params, plan, weight=1)
        return tree.map_named(lambda name, leaf: made.get(name, leaf), deep)

    groups = regrouped(model, plan) if isinstance(model, Groups) else None
    return Operator(_coefficients(plan, noise, key), materialise, groups)
