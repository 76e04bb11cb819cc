"""Crossovers of matrices by their rank-one terms: singular directions, pairs of factors."""

from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.evolve.crossover import Crossover
from wslax.evolve.exchange import coins, taken
from wslax.numerics.decompose import svd
from wslax.typing import Array, Key, Params, PerMember, Population


def by_direction(key: Key, pair: Population, coef: PerMember) -> Params:
    r"""Spectral crossover: each singular direction comes whole from either parent.

    \[Y = \sum_i s_i^{p_i} u_i^{p_i} (v_i^{p_i})^T, \qquad p_i = 0 \text{ with probability }
      c_0 / (c_0 + c_1), \text{ else } 1\]

    over the directions of each matrix, the largest singular values first, so that strong ones
    replace strong ones. Each term keeps its strength, and the rank is at most the parents'. The
    terms of two parents are not orthogonal to each other: Y's own singular values and its norm lie
    between no bounds but \(\sigma_1(Y) \le \sigma_1(X_0) + \sigma_1(X_1)\).

    Args:
      key: differs from child to child.
      pair: two parents, leaves `[2, ...]`. Leaves of more than two axes are matrices with the last
        axis as columns; vectors, scalars, and leaves without floats, come whole from one parent
        (the last from the first).
      coef: `[2]`, the parents' shares.

    Returns:
      One member; where both parents are the same, that one in its bits.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> pair = {"w": jnp.stack([jnp.diag(jnp.array(d)) for d in ([4.0, 1.0], [6.0, 3.0])])}
        >>> child = ws.evolve.by_direction(0, pair, jnp.ones(2))["w"]
        >>> float(child[0, 0].round(4)) in (4, 6), float(child[1, 1].round(4)) in (1, 3)
        (True, True)
    """
    done: Any = True

    def take(name: str, x: Array) -> Array:
        nonlocal done
        if not tree.is_float(x) or x.ndim < 3 or x.size == 0:
            return taken(x, coins(key, f"direction/{name}", 1, coef)[0])
        wide = x.astype(tree.wide(x)).reshape(2, -1, x.shape[-1])
        found, done = svd(wide, done)
        second = ~coins(key, f"direction/{name}", found.singular.shape[-1], coef)
        terms = (found.left * (found.singular * second[None])[:, None]) @ found.right.mT
        # As a change of the first parent, so that equal parents keep every bit.
        child = wide[0] + (terms[1] - terms[0])
        return tree.cast_like(child.reshape(x.shape[1:]), x)

    return tree.map_named(take, pair)


def by_term(
    first: str = "lora_A", second: str = "lora_B", *, axes: tuple[int, int] = (-2, -1)
) -> Crossover:
    r"""A crossover of adapters: each rank-one term of a product comes whole from either parent.

    A factor pair stands for \(BA = \sum_k b_k a_k^T\). Its terms are kept together: the child has
    \((a_k, b_k)\) of one parent, for each k drawn by the parents' shares. Crossing A and B apart
    would make products \(b_k^0 (a_k^1)^T\) that neither parent has.

    Terms are paired by number. A factorisation is free to mix them (\(BA = (BM)(M^{-1}A)\)), so
    members of different origin are best brought to singular order before, as
    `adapt.extract` and `adapt.factorise` give them.

    Args:
      first: the part of a leaf's name that says it is an A; PEFT's.
      second: what stands there instead in the name of its B.
      axes: the axis of the terms in A and in B, of one member: PEFT's `[r, in]` and `[out, r]`;
        (-1, -2) for `[in, r]` and `[r, out]`.

    Returns:
      A crossover; leaves that belong to no pair come whole from one parent, those without floats
      from the first.

    Raises:
      WeightSpaceError: from the crossover, if no leaf is an A, one lacks its B, or the two have
        different numbers of terms.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> a = jnp.array([[[1.0], [1.0]], [[2.0], [2.0]]])  # two parents, two terms, one input
        >>> pair = {"q": {"lora_A": a, "lora_B": a.mT}}
        >>> child = ws.evolve.by_term()(0, pair, jnp.ones(2))["q"]
        >>> bool((child["lora_A"][:, 0] == child["lora_B"][0]).all())
        True
    """

    def cross(key: Key, pair: Population, coef: PerMember) -> Params:
        leaves = tree.named_leaves(pair)
        terms: dict[str, tuple[int, Array]] = {}
        for name in leaves:
            parts = name.split("/")
            if first not in parts:
                continue
            other = "/".join(second if part == first else part for part in parts)
            if other not in leaves:
                raise WeightSpaceError(
                    f"{name}: lacks its other factor {other!r}.{did_you_mean(other, leaves)}"
                )
            counts = [
                leaves[n].shape[1:][axis] for n, axis in zip((name, other), axes, strict=True)
            ]
            if counts[0] != counts[1]:
                raise WeightSpaceError(
                    f"{name}: has {counts[0]} terms, {other} has {counts[1]}; say on which axes "
                    f"they lie, now axes={axes}"
                )
            drawn = coins(key, f"term/{name}", counts[0], coef)
            terms |= {name: (axes[0], drawn), other: (axes[1], drawn)}
        if not terms:
            raise WeightSpaceError(
                f"by_term: no leaf has {first!r} in its name.{did_you_mean(first, leaves)}"
            )

        def take(name: str, x: Array) -> Array:
            if name not in terms:
                return taken(x, coins(key, f"term/{name}", 1, coef)[0])
            axis, drawn = terms[name]
            along = jnp.expand_dims(drawn, tuple(range(1, x.ndim - 1)))
            return taken(x, jnp.moveaxis(along, 0, axis))

        return tree.map_named(take, pair)

    return cross
