r"""Merging by masks over the entries of task vectors: who is heard where.

All of it is elementwise but for the scales of `emr`, which are taken over the whole model.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import (
    Leaves,
    add_merged,
    check_base,
    check_coef,
    float_names,
    task_vectors,
)
from wslax.merge.parameters import is_concrete
from wslax.typing import Params, Population, Scalar, Where


def _magmax(vectors: Leaves) -> Leaves:
    def largest(d: Any) -> Any:
        turned = d[::-1]  # the first of equals is then the last member
        at = jnp.argmax(jnp.abs(turned), axis=0)
        return jnp.take_along_axis(turned, at[None], axis=0)[0]

    return {name: largest(d) for name, d in vectors.items()}


def magmax(population: Population, base: Params, *, lam: Any = 0.5, where: Where = None) -> Params:
    r"""Of each entry the change that is largest in magnitude.

    \[y = b + \lambda d_{i^*}, \qquad i^* = \arg\max_i |d_i|\]

    entry by entry; of equals the last member's, as in the authors' code.

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\); 0.5 in the authors' script for models trained apart. One member is returned
        as it is at 1.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member.

    References:
      Marczak et al. 2024, MagMax: leveraging model merging for seamless continual learning,
      arXiv:2407.06322, section 4.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[1.0, -3.0], [2.0, 2.0]])}
        >>> ws.merge.magmax(experts, {"w": jnp.zeros(2)}, lam=1.0)["w"].tolist()
        [2.0, -3.0]
    """
    return add_merged(_magmax, population, base, lam, where)


def _tall(d: Any, lam: Any) -> Any:
    lam = jnp.broadcast_to(jnp.asarray(lam, d.dtype), (len(d),))
    lam = lam.reshape(-1, *(1,) * (d.ndim - 1))
    return jnp.abs(d) > lam * jnp.abs(d.sum(0, keepdims=True) - d)


@jax.jit
def _tall_masks(stacks: Leaves, bases: Leaves, lam: Any) -> Leaves:
    return {name: _tall(d, lam) for name, d in task_vectors(stacks, bases).items()}


def tall_masks(
    population: Population, base: Params, *, lam: Any = 0.4, where: Where = None
) -> Params:
    r"""Which entries of the sum of task vectors each task needs.

    \[m_i = \big[\, |d_i| > \lambda_i \,\big| \textstyle\sum_j d_j - d_i \big| \,\big]\]

    \(b + m_i \odot \sum_j d_j\) is close to member i.

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\), a number or `[N]`; the larger, the fewer. The authors choose for each task
        the best of 0.2, 0.3, ..., 0.6 on its validation set; the default is their middle.
      where: globs of the leaves to look at; all others, and those that hold no floats, are false.

    Returns:
      Bools `[N, ...]`, a tree like the population.

    Raises:
      WeightSpaceError: if the base is unlike a member, or `lam` has another shape.

    References:
      Wang et al. 2024, Localizing task information for improved model merging and compression,
      arXiv:2405.07813, equation 4.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[3.0, 1.0, 1.0], [0.1, 1.0, 5.0]])}
        >>> ws.merge.tall_masks(experts, {"w": jnp.zeros(3)}, lam=1.0)["w"].tolist()
        [[True, False, False], [False, False, True]]
    """
    check_coef("lam", lam, check_base(population, base))
    named, bases = tree.named_leaves(population), tree.named_leaves(base)
    mine = float_names(population, where)
    found = _tall_masks({n: named[n] for n in mine}, {n: bases[n] for n in mine}, lam)
    out = [found[n] if n in found else jnp.zeros(x.shape, bool) for n, x in named.items()]
    return jax.tree.unflatten(jax.tree.structure(population), out)


def _consensus(vectors: Leaves, mask_lam: Any, least: Any) -> Leaves:
    def agreed(d: Any) -> Any:
        heard = _tall(d, mask_lam).sum(0) >= least
        return jnp.where(heard, d.sum(0), 0)

    return {name: agreed(d) for name, d in vectors.items()}


def consensus(
    population: Population,
    base: Params,
    *,
    lam: Any = 1.0,
    mask_lam: Any = 0.4,
    least: Scalar = 2,
    where: Where = None,
) -> Params:
    r"""Consensus task arithmetic: entries that too few tasks need are dropped from the sum.

    \[y = b + \lambda \, \Big[ \sum_i m_i \ge k \Big] \odot \sum_i d_i\]

    with the masks of `tall_masks`. At k = 0 it is `task_arithmetic`; k = 1 drops what no task
    needs, 2 also what only one does.

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\); the paper searches 0 to 1 on a validation set.
      mask_lam: \(\lambda\) of the masks, a number or `[N]`.
      least: k; the paper's 2.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or `mask_lam` has another shape.

    References:
      Wang et al. 2024, arXiv:2405.07813, section 4.3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[3.0, 1.0, 1.0], [0.1, 1.0, 5.0]])}
        >>> ws.merge.consensus(experts, {"w": jnp.zeros(3)}, mask_lam=0.5)["w"].tolist()
        [0.0, 2.0, 0.0]
    """
    check_coef("mask_lam", mask_lam, check_base(population, base))
    return add_merged(_consensus, population, base, lam, where, args=(mask_lam, least))


class Emr(NamedTuple):
    """What `emr` keeps of N models beside their base.

    Attributes:
      unified: leaf name to the unified task vector, in the dtype of the leaf.
      masks: leaf name to uint8 `[N, bytes]`, one bit an entry (`jnp.packbits` of the flat leaf).
      scales: float32 `[N]`.
    """

    unified: Any
    masks: Any
    scales: Any


@jax.jit
def _emr(stacks: Leaves, bases: Leaves) -> Emr:
    unified, masks, whole, held = {}, {}, 0.0, 0.0
    for name, d in task_vectors(stacks, bases).items():
        sign = jnp.where(d.sum(0) > 0, 1, -1).astype(d.dtype)[None]
        agree = d * sign > 0
        size = jnp.where(agree, jnp.abs(d), 0).max(0)
        unified[name] = (size * sign[0]).astype(stacks[name].dtype)
        masks[name] = jnp.packbits(agree.reshape(len(d), -1), axis=1)
        axes = tuple(range(1, d.ndim))
        whole = whole + jnp.abs(d).sum(axes).astype(jnp.float32)
        held = held + jnp.where(agree, size[None], 0).sum(axes).astype(jnp.float32)
    return Emr(unified, masks, whole / jnp.where(held > 0, held, 1))


def emr(population: Population, base: Params, *, where: Where = None) -> Emr:
    r"""Elect, mask and rescale: N models as one task vector and a bit an entry for each.

    \[s = \mathrm{sign} \sum_i d_i \;(0 \to -1), \quad u = s \max_{i:\, s d_i > 0} |d_i|, \quad
    m_i = [\, s d_i > 0 \,], \quad
    c_i = \frac{\sum |d_i|}{\sum |m_i \odot u|},\]

    the last over the whole model. `emr_member` gives \(b + c_i \, m_i \odot u\): close to member i
    in direction, and equal to it in the L1 norm of its task vector. So this is no merged model but
    a store of N of them, at about 1 + N/32 task vectors of float32. In part of the authors' code
    the scale sums the means of each array and not all entries.

    Args:
      population: N members.
      base: the model they came from.
      where: globs of the leaves to store; of the others members get the base's.

    Returns:
      `Emr(unified, masks, scales)`.

    Raises:
      WeightSpaceError: if the base is unlike a member.

    References:
      Huang et al. 2024, EMR-Merging: tuning-free high-performance model merging, arXiv:2405.17461,
      section 3.2.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[1.0, -3.0], [2.0, 2.0]])}, {"w": jnp.zeros(2)}
        >>> stored = ws.merge.emr(experts, base)
        >>> stored.unified["w"].tolist(), ws.merge.emr_member(stored, base, 1)["w"].tolist()
        ([2.0, -3.0], [4.0, 0.0])
    """
    check_base(population, base)
    named, bases = tree.named_leaves(population), tree.named_leaves(base)
    mine = float_names(population, where)
    return _emr({n: named[n] for n in mine}, {n: bases[n] for n in mine})


def emr_member(stored: Emr, base: Params, index: Scalar) -> Params:
    r"""A member's model from what `emr` stored, \(b + c_i \, m_i \odot u\).

    Args:
      stored: of `emr`.
      base: the same base.
      index: which member, 0 to N - 1; may be traced, and vectorises.

    Returns:
      Its parameters.

    Raises:
      WeightSpaceError: if a stored leaf is not in the base, or a concrete index is out of range.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> base = {"w": jnp.zeros(3)}
        >>> stored = ws.merge.emr({"w": jnp.array([[1.0, 2.0, -4.0]])}, base)
        >>> ws.merge.emr_member(stored, base, 0)["w"].tolist()
        [1.0, 2.0, -4.0]
    """
    named, count = tree.named_leaves(base), len(stored.scales)
    if is_concrete(index) and not 0 <= index < count:
        raise WeightSpaceError(f"member {index}: {count} are stored, 0 to {count - 1}")
    for name in stored.unified:
        if name not in named:
            raise WeightSpaceError(f"{name}: stored, but not in the base; pass the base of emr()")

    def member(name: str, x: Any) -> Any:
        if name not in stored.unified:
            return x
        bits = jnp.unpackbits(stored.masks[name][index], count=math.prod(x.shape))
        dtype = tree.wide(x)
        change = stored.unified[name].astype(dtype) * bits.reshape(x.shape).astype(dtype)
        return tree.cast_like(x.astype(dtype) + stored.scales[index].astype(dtype) * change, x)

    return tree.map_named(member, base)
