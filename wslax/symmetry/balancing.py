"""A normal form of scales: every unit's incoming weights as large as its outgoing ones."""

import collections
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.symmetry.along import owned_sums
from wslax.symmetry.find import locate
from wslax.symmetry.gather import owners
from wslax.symmetry.scaling import powers, rescale, unit_shape
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array, Params

Leaves = dict[str, Any]
Logs = dict[int, Any]

TOLERANCE = 1e-6  # of a factor's logarithm, some ten roundings of float32
SWEEPS = 1000


def _multiplied(groups: Groups, group: Group, k: int, logs: Array, squares: Leaves) -> Leaves:
    """Squares after the units' factors of one symmetry changed by those logarithms."""
    for site, exponents in powers(group, signs=False).items():
        if exponents[k]:
            factors = jnp.append(jnp.exp(2 * exponents[k] * logs), jnp.ones(1, logs.dtype))
            leaf = squares[site.name]
            squares = squares | {site.name: leaf * factors[owners(groups, group, site)]}
    return squares


def _step(groups: Groups, group: Group, k: int, squares: Leaves) -> Array:
    """How far the logarithms of the factors are from where both sides are equal."""
    sides: dict[bool, Any] = {True: [], False: []}
    most, axes = {True: 0, False: 0}, collections.defaultdict(set)
    for site, exponents in powers(group, signs=False).items():
        if n := exponents[k]:
            sides[n > 0].append(abs(n) * owned_sums(groups, group, site, squares[site.name]))
            most[n > 0] = max(most[n > 0], abs(n))
            axes[site.name].add(site.axis)
    up, down = (sum(sides[side]) if sides[side] else jnp.float32(1) for side in (True, False))
    both = (up > 0) & (down > 0)
    ratio = jnp.log(jnp.where(both, down, 1)) - jnp.log(jnp.where(both, up, 1))
    # Units that share an element (a square weight) move together: a share each never overshoots.
    return ratio / (2 * sum(most.values()) * max(map(len, axes.values())))


def _logs(groups: Groups, scaled: list[Group], squares: Leaves) -> Logs:
    """Logarithms of the factors that balance every unit."""
    dtype = jnp.result_type(*squares.values())
    zero = {g.id: jnp.zeros((len(g.scales), *unit_shape(groups, g)), dtype) for g in scaled}

    def sweep(state: tuple[Array, Logs, Array]) -> tuple[Array, Logs, Array]:
        at, logs, _ = state
        now, moved = squares, []
        for group in scaled:
            for k in range(len(group.scales)):
                now = _multiplied(groups, group, k, logs[group.id][k], now)
        for group in scaled:
            for k in range(len(group.scales)):
                step = _step(groups, group, k, now)
                now = _multiplied(groups, group, k, step, now)
                logs = logs | {group.id: logs[group.id].at[k].add(step)}
                moved.append(jnp.abs(step).max())
        return at + 1, logs, jnp.stack(moved).max()

    going = lambda state: (state[0] < SWEEPS) & (state[2] > TOLERANCE)
    begin = (jnp.int32(0), zero, jnp.asarray(jnp.inf, dtype))
    return jax.lax.while_loop(going, sweep, begin)[1]


def balance(params: Params, groups: Groups) -> Params:
    r"""Rescale every unit so that what it multiplies up and down is equally large.

    Among all models that differ in scales alone (`rescale`) the one of least Euclidean norm:
    \(\min_c \lVert c \cdot \theta \rVert^2\), where for each symmetry \(\sum_s e_s \lVert
    \theta_{us} \rVert^2 = 0\) over the sites \(s\) of each unit \(u\): for a ReLU unit, incoming
    weights and bias have the norm of the outgoing weights. It is found as in Stock et al.
    (arXiv:1902.10416, section 3), one symmetry after another until no factor changes by more than
    1e-6. A unit with nothing but zeros on one side keeps its scale, and so does a group whose
    leaves are not all in the tree.

    Args:
      params: as for `permute`.
      groups: the groups.

    Returns:
      The tree; models that differ in scales become one, to rounding. Works under `jax.jit` and
      `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"in": jnp.array([[8.0, 3.0]]), "out": jnp.array([[2.0], [3.0]])}
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> groups = ws.symmetry.infer(apply, params, jnp.zeros((1, 1)))
        >>> [round(w, 3) for w in balance(params, groups)["in"][0].tolist()]
        [4.0, 3.0]
    """
    found = locate(params, groups)
    leaves = tree.named_leaves(params)
    squares: Leaves = {}
    for name, original in found.items():
        if tree.is_float(leaves[name]):
            square = jnp.asarray(leaves[name]).astype(tree.wide(leaves[name])) ** 2
            squares[original] = squares.get(original, 0) + square
    whole = [g for g in groups.free if g.scales and _present(g, squares)]
    if not whole:
        return params
    logs = _logs(groups, whole, squares)
    return rescale(params, groups, {id: jnp.exp(log) for id, log in logs.items()})


def _present(group: Group, leaves: Leaves) -> bool:
    places = powers(group, signs=False).items()
    return all(site.name in leaves for site, exponents in places if any(exponents))
