"""Merging by what data says of the members: Fisher information, and Gram matrices of inputs."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, check_base, check_coef, float_names, merge_leaves
from wslax.merge.matrices import alike, apart, together, views
from wslax.numerics.decompose import least_squares
from wslax.population.members import row_spec
from wslax.symmetry.matrices import MatrixAxes, from_matrices, matrix_axes
from wslax.symmetry.types import Groups
from wslax.typing import Params, Population, Where


@partial(jax.jit, static_argnames="normalize")
def _fisher(stacks: Leaves, fishers: Leaves, coef: Any, floor: Any, normalize: bool) -> Leaves:
    count = len(next(iter(stacks.values())))
    coef = jnp.broadcast_to(jnp.asarray(coef, jnp.float32), (count,))
    if normalize:
        squares = [
            jnp.square(f.astype(jnp.float32)).reshape(count, -1).sum(1) for f in fishers.values()
        ]
        norm = jnp.sqrt(sum(squares))
        coef = coef / jnp.where(norm > 0, norm, 1)

    def merge(x: Any, f: Any) -> Any:
        dtype = tree.wide(x)
        mine = coef.astype(dtype).reshape(-1, *(1,) * (x.ndim - 1))
        weight = mine * jnp.maximum(f.astype(dtype), jnp.asarray(floor, dtype))
        return (weight * x.astype(dtype)).sum(0) / weight.sum(0)

    return {name: merge(x, fishers[name]) for name, x in stacks.items()}


def fisher(
    population: Population,
    fishers: Params,
    base: Params | None = None,
    *,
    coef: Any = 1.0,
    floor: Any = 1e-6,
    normalize: bool = True,
    where: Where = None,
) -> Params:
    r"""The mean of the members, each entry weighed by its Fisher information.

    \[y = \frac{\sum_i c_i F_i x_i}{\sum_i c_i F_i}\]

    with \(F_i\) at least `floor` and, if normalised, \(c_i\) over the norm \(\|F_i\|_2\) of the
    whole model. The authors' code puts the floor under the first member's F alone, FusionBench
    adds it.

    Args:
      population: N members.
      fishers: \(F_i\), a tree like the population, from `fisher_information`.
      base: only where leaves outside `where` come from.
      coef: \(c_i\), a number or `[N]`.
      floor: least weight; the authors' 1e-6.
      normalize: whether members with larger F count no more than others, as in the authors' code.
      where: globs of the leaves to merge, which are then the whole model.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if `fishers` has other leaves or shapes, or `coef` another length.

    References:
      Matena and Raffel 2022, arXiv:2111.09832, equation 6.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[0.0, 0.0], [1.0, 1.0]])}
        >>> fishers = {"w": jnp.array([[3.0, 1.0], [1.0, 3.0]])}
        >>> ws.merge.fisher(experts, fishers)["w"].tolist()
        [0.25, 0.75]
    """
    check_coef("coef", coef, check_base(population, base))
    tree.check_structure(fishers, population, "fishers", "population")
    named, information = tree.named_leaves(population), tree.named_leaves(fishers)
    mine = float_names(population, where)
    for name in mine:
        if information[name].shape != named[name].shape:
            raise WeightSpaceError(
                f"{name}: fishers is {tree.aval(information[name])}, the population "
                f"{tree.aval(named[name])}"
            )

    def merged(stacks: Leaves, _: Leaves | None) -> Leaves:
        return _fisher(stacks, {n: information[n] for n in stacks}, coef, floor, normalize)

    return merge_leaves(merged, population, base, where)


def _axes(shape: tuple[int, ...], gram: Any) -> MatrixAxes:
    """Inputs first: behind the batch of the Gram matrix the fewest axes that make up its side."""
    first = gram.ndim - 3
    end = first + 1
    while math.prod(shape[first:end]) < gram.shape[-1] and end < len(shape):
        end += 1
    return MatrixAxes(tuple(range(first, end)), tuple(range(end, len(shape))))


@partial(jax.jit, static_argnames="axes")
def _regmean(stacks: Leaves, grams: Leaves, alpha: Any, axes: Any) -> Leaves:
    wide = {n: x.astype(tree.wide(x)) for n, x in stacks.items()}
    matrices, where = views(wide, axes), dict(axes)
    found, done = {}, True
    for names, stack in alike(matrices):
        gram = together(names, grams).astype(stack.dtype)
        own = jnp.eye(gram.shape[-1], dtype=bool)[None, None]
        gram = jnp.where(own, gram, jnp.asarray(alpha, stack.dtype) * gram)
        # Solved for what differs from the mean, which so stays where no input ever was.
        mean = stack.mean(0)
        gap = (gram @ (stack - mean[None])).sum(0)
        change, done = least_squares(gram.sum(0), gap, done)
        for name, x in apart(names, mean + change, matrices).items():
            found[name] = from_matrices(x, where[name], wide[name].shape[1:])
    return {n: found[n] if n in found else x.mean(0) for n, x in wide.items()}


def regmean(
    population: Population,
    grams: Mapping[str, Any],
    base: Params | None = None,
    *,
    alpha: Any = 0.9,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Each matrix so that its outputs are nearest to every member's on that member's inputs.

    \[W = \Big(\sum_i \tilde G_i\Big)^{-1} \sum_i \tilde G_i W_i, \qquad G_i = X_i^T X_i,\]

    rows of W are inputs and \(\tilde G\) has its entries off the diagonal multiplied by
    \(\alpha\). Leaves without a Gram matrix are averaged. Inputs that no example used keep the
    mean (the original inverts a singular matrix there).

    Args:
      population: N members.
      grams: leaf name to `[N, d, d]`, or to a tuple of them, one for each use of the leaf, whose
        sum is taken. d is the number of inputs: the leaf's first axis, or first few together. Of a
        leaf that is a stack of matrices `[N, *stack, d, d]`. The original divides each member's by
        its number of examples; give all as many, or divide.
      base: only where leaves outside `where` come from.
      alpha: \(\alpha\), 0 to 1; the paper's 0.9 (0.1 for T5). At 1 the least squares themselves, at
        0 a mean by each input's power.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are inputs where they do not come first.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if a name is unknown or a Gram matrix does not fit its leaf.

    References:
      Jin et al. 2023, Dataless knowledge fusion by merging weights of language models,
      arXiv:2212.09849, equation 2 and section 3.3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[1.0], [1.0]], [[3.0], [3.0]]])}
        >>> seen = jnp.array([[[3.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]])
        >>> ws.merge.regmean(experts, {"w": seen})["w"].round(4).tolist()
        [[1.5], [2.5]]
    """
    check_base(population, base)
    named, known = tree.named_leaves(population), {}
    if groups is not None:
        known = matrix_axes(row_spec(population), groups)
    axes, sums = {}, {}
    for name in grams:
        if name not in named:
            raise WeightSpaceError(f"grams: {name!r} is no leaf of the population")
        uses = grams[name] if isinstance(grams[name], (tuple, list)) else (grams[name],)
        sums[name] = sum(uses[1:], uses[0])
        axes[name] = known.get(name) or _axes(named[name].shape[1:], sums[name])
        view = jax.eval_shape(partial(views, axes=((name, axes[name]),)), {name: named[name]})[name]
        if sums[name].shape != (*view.shape[:-1], view.shape[-2]):
            raise WeightSpaceError(
                f"{name}: expected a Gram matrix [N, ..., d, d] of the inputs of "
                f"{tree.aval(named[name])}, got {tree.aval(sums[name])}"
            )

    def merged(stacks: Leaves, _: Leaves | None) -> Leaves:
        mine = tuple((n, at) for n, at in axes.items() if n in stacks)
        with jax.default_matmul_precision("float32"):
            return _regmean(stacks, {n: sums[n] for n, _ in mine}, alpha, mine)

    return merge_leaves(merged, population, base, where)
