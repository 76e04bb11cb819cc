"""Sums that depend on which members change an entry, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


def ram(
    population: Population, base: Params, *, epsilon: Any = 1e-5, where: Where = None
) -> Params:
    r"""Base plus, entry by entry, the mean of the task vectors of the members active there.

    Member i is active where \(|d_i| > \epsilon\); with \(A\) the active members of an entry,
    \(y = b + \sum_{i \in A} d_i / \max(1, |A|)\): what one member alone changes is kept whole. The
    arithmetic is mergekit 0.1.5's.

    Args:
      population: N members.
      base: the model they came from.
      epsilon: \(\epsilon\), mergekit's 1e-5.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or `epsilon` is negative.

    References:
      Reinforced Agent Merging, arXiv:2601.13572.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[4.0, 4.0, 0.0], [2.0, 0.0, 0.0]])}
        >>> ws.merge.ram(experts, {"w": jnp.zeros(3)})
        {'w': Array([3., 4., 0.], dtype=float32)}
    """
    return run(METHODS["ram"], population, base, {"epsilon": epsilon}, where=where)


def ramplus_tl(
    population: Population,
    base: Params,
    *,
    r: Any = 0.1,
    alpha: Any = 0.2,
    epsilon: Any = 1e-5,
    where: Where = None,
) -> Params:
    r"""`ram`, with entries that one member alone changes raised by its overlap with others.

    Of the entries where member i is active, let \(s_i\) be shared with others and \(a_i\) not.
    Where it is the only active member, \(d_i\) is multiplied by

    \[1 + r \cdot \mathrm{clip}(s_i / \max(a_i, \epsilon), 0, \alpha).\]

    Counts are over one leaf, mergekit 0.1.5's tensor-local form; the paper's is over the model.

    Args:
      population: N members.
      base: the model they came from.
      r: factor of the raise, mergekit's 0.1.
      alpha: \(\alpha\), the greatest overlap that counts, mergekit's 0.2.
      epsilon: \(\epsilon\), change from which a member counts as active, mergekit's 1e-5.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a number is out of range.

    References:
      Reinforced Agent Merging, arXiv:2601.13572.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[4.0, 4.0, 0.0], [2.0, 0.0, 0.0]])}
        >>> ws.merge.ramplus_tl(experts, {"w": jnp.zeros(3)}, r=0.5, alpha=0.5)
        {'w': Array([3., 5., 0.], dtype=float32)}
    """
    params = {"r": r, "alpha": alpha, "epsilon": epsilon}
    return run(METHODS["ramplus_tl"], population, base, params, where=where)


def sce(
    population: Population, base: Params, *, select_topk: Any = 1.0, where: Where = None
) -> Params:
    r"""Select where members differ, weight by energy, erase what disagrees in sign.

    1. Of the entries whose variance across members is not zero, the share `select_topk` with the
       largest is selected (and all that equal the least); the task vectors \(\hat d_i\) are zero
       elsewhere. At 1 nothing is.
    2. \(v_i = \overline{\hat d_i^2} / \sum_j \overline{\hat d_j^2}\), means over the leaf; equal
       where the sum is below 1e-6.
    3. \(s = \mathrm{sign}\sum_i \hat d_i\) (zero counts as plus),
       \(A = \{i : \mathrm{sign}\,\hat d_i = s\}\),
       \(y = b + \sum_{i \in A} v_i \hat d_i / \max(\sum_{i \in A} v_i, 10^{-6})\).

    Semantics are mergekit 0.1.5's, which selects from each tensor as the paper does. Small task
    vectors meet its guard: where their mean squares add up to less than 1e-6, they weigh equally.

    Args:
      population: N members.
      base: the model they came from.
      select_topk: share of entries selected, 0 to 1.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or the share is out of range.

    References:
      Wan et al. 2024, FuseChat: Knowledge fusion of chat models, arXiv:2408.07990, section 3.3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[4.0, 1.0, 1.0], [0.0, 1.0, 2.0]])}
        >>> ws.merge.sce(experts, {"w": jnp.zeros(3)}, select_topk=0.5)
        {'w': Array([4., 0., 0.], dtype=float32)}
    """
    return run(METHODS["sce"], population, base, {"select_topk": select_topk}, where=where)
