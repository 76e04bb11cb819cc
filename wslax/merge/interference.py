r"""Merging that weighs directions by how tasks meet in them, without data.

Matrices are \(D_i = X_i - B\), rows the inputs and columns the outputs, as in
`wslax.merge.subspace`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, check_base, float_names, task_vectors
from wslax.merge.matrices import Axes, alike, apart, axes_of, merge_matrices, views
from wslax.merge.parameters import is_concrete
from wslax.numerics.decompose import least_squares, svd
from wslax.symmetry.matrices import from_matrices
from wslax.symmetry.types import Groups
from wslax.typing import Params, Population, Where

LEARNING_RATE = 1e-5  # of the published iterations


def _wudi(deltas: Any, done: Any, steps: int | None) -> tuple[Any, Any]:
    start = deltas.sum(0)
    squares = (deltas * deltas).sum((-2, -1), keepdims=True)
    weights = jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1), 0)

    def add(held: Any, row: Any) -> tuple[Any, None]:
        own, weight = row
        gram = (own @ own.mT) * weight
        return (held[0] + gram, held[1] + gram @ own), None

    nothing = jnp.zeros((*start.shape[:-1], start.shape[-2]), start.dtype)
    begin = (nothing, jnp.zeros_like(start))
    (gram, target), _ = jax.lax.scan(add, begin, (deltas, weights))
    if steps is None:
        # Solved for what differs from the start, which so stays where no task has any input.
        change, done = least_squares(gram, target - gram @ start, done)
        return start + change, done
    import optax

    adam = optax.adam(LEARNING_RATE)

    def step(_: Any, held: Any) -> Any:
        merged, state = held
        updates, state = adam.update(2 * (gram @ merged - target), state)
        return merged + updates, state

    return jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))[0], done


def wudi(
    population: Population,
    base: Params,
    *,
    steps: int | None = None,
    lam: Any = 1.0,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Least interference with the task vectors' own inputs (WUDI).

    A task vector's columns span, to first order, the inputs of its task. So with them in place of
    data the merged D minimises

    \[\sum_i \frac{\| D_i^T (D - D_i) \|_F^2}{\| D_i \|_F^2}, \qquad Y = B + \lambda D.\]

    The loss is quadratic. By default D is its minimiser, the one nearest to \(\sum_i D_i\), where
    the authors start. They take 300 steps of Adam at a rate of 1e-5, which for most weights is far
    from the minimum; `steps=300` does as they do. A member equal to the base is left out (theirs:
    division by zero).

    Args:
      population: N members.
      base: the model they came from.
      steps: steps of Adam at 1e-5 from \(\sum_i D_i\), static; None (default) solves.
      lam: \(\lambda\); not in the paper, 1.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, the groups do not fit, or `steps`
        is negative.

    References:
      Cheng et al. 2025, Whoever started the interference should end it: guiding data-free model
      merging via task vectors, arXiv:2503.08099, equation 9.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[1.0], [0.0]], [[0.0], [2.0]]])}
        >>> ws.merge.wudi(experts, {"w": jnp.zeros((2, 1))})["w"].round(4).tolist()
        [[1.0], [2.0]]
    """
    if steps is not None and steps < 0:
        raise WeightSpaceError(f"steps: expected at least 0, got {steps}")
    return merge_matrices(_wudi, population, base, lam, where, groups, steps)


@partial(jax.jit, static_argnames="axes")
def _calibrate(merged: Leaves, stacks: Leaves, bases: Leaves, alpha: Any, axes: Axes) -> Leaves:
    """The matrices among the merged leaves, calibrated."""
    matrices = views(task_vectors(stacks, bases), axes)
    wholes = views(task_vectors({n: x[None] for n, x in merged.items()}, bases), axes)
    found, where, done = {}, dict(axes), True
    for (names, deltas), (_, whole) in zip(alike(matrices), alike(wholes), strict=True):
        factors, done = svd(whole[0], done)
        response, responses = whole[0] @ factors.right, deltas @ factors.right[None]
        squares = (responses * responses).sum(-2)
        share = (response[None] * responses).sum(-2) / jnp.where(squares > 0, squares, 1)
        factor = len(deltas) / jnp.maximum(share, jnp.asarray(alpha, share.dtype)).sum(0)
        calibrated = (response * factor[..., None, :]) @ factors.right.mT
        for name, x in apart(names, calibrated, matrices).items():
            base = bases[name].astype(x.dtype)
            found[name] = base + from_matrices(x, where[name], base.shape)
    return found


def calibrate(
    merged: Params,
    population: Population,
    base: Params,
    *,
    alpha: Any = 0.1,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Singular value calibration: scale back the output directions that tasks share.

    Of the merged task vector \(D = U \Sigma V^T\) each output direction \(v_r\) has a response
    \(D v_r\), and of each task one, \(D_i v_r\). Where the merged one holds a task's more than
    once, it is shrunk, and grown where it holds it less:

    \[s_r^i = \frac{\langle D v_r, D_i v_r \rangle}{\|D_i v_r\|^2}, \qquad
    \gamma_r = \frac{N}{\sum_i \max(\alpha, s_r^i)}, \qquad
    Y = B + \sum_r \gamma_r \sigma_r u_r v_r^T.\]

    A task without a response counts as \(s_r^i = 0\). Leaves that are no matrices stay as merged.

    Args:
      merged: the result of any merge of the population.
      population: N members.
      base: the model they came from.
      alpha: \(\alpha > 0\), the least a task counts; no direction grows more than \(1/\alpha\)
        times. FusionBench's 0.1. At 1 directions only shrink.
      where: globs of the leaves to calibrate.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The calibrated parameters.

    Raises:
      WeightSpaceError: if merged model, base and members are not alike, or the groups do not fit.

    References:
      When shared knowledge hurts: spectral over-accumulation in model merging, 2026,
      arXiv:2602.05536, equations 4 to 8 and algorithm 1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.ones((2, 1, 1))}, {"w": jnp.zeros((1, 1))}
        >>> summed = ws.merge.task_arithmetic(experts, base)
        >>> float(summed["w"][0, 0]), float(ws.merge.calibrate(summed, experts, base)["w"][0, 0])
        (2.0, 1.0)
    """
    check_base(population, base)
    tree.check_like(merged, base, "merged", "base")
    if is_concrete(alpha) and not np.asarray(alpha) > 0:
        raise WeightSpaceError(f"alpha: expected above 0, got {alpha}")
    mine = float_names(population, where)
    named = tree.named_leaves(merged)
    ours = ({n: x[n] for n in mine} for x in map(tree.named_leaves, (merged, population, base)))
    with jax.default_matmul_precision("float32"):
        found = _calibrate(*ours, alpha, axes_of(population, groups))
    out = [tree.cast_like(found[n], x) if n in found else x for n, x in named.items()]
    return jax.tree.unflatten(jax.tree.structure(base), out)
