"""Kept units that stand in for all: gates on what units give, in closed form."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.select.scores.components import contributions
from wslax.symmetry import layout
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.gather import owners
from wslax.symmetry.scaling import unit_shape
from wslax.symmetry.types import Groups, Site
from wslax.typing import Array, Params


def refit(
    params: Params, grams: Mapping[str, Array], groups: Groups, kept: Mapping[int, Array]
) -> dict[int, Array]:
    r"""Gates by which the kept units make the layers' outputs best, in closed form.

    \(\min_\delta \mathrm{E} \lVert y - \sum_{u \in S} \delta_u y_u \rVert^2\), solved by \(G_{SS}
    \delta_S = G_S 1\) with `scores.contributions`; of several solutions the smallest. For
    `select.gate`, before `select.prune`.

    Args:
      params: as in `scores.contributions`.
      grams: as in `scores.contributions`.
      groups: as in `scores.contributions`.
      kept: group id to the units that stay, from `select.units`; `[count]`, the same at all outer
        units, or `[*sizes of per, count]`.

    Returns:
      Group id to gates `[*sizes of per, units]`, 0 for units that go.

    Raises:
      WeightSpaceError: as `scores.contributions`; for a group that no leaf with a Gram matrix
        consumes.

    References:
      Kashyap et al. 2025, ModHiFi, arXiv:2511.19566.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [1.0]])}
        >>> x = jnp.array([[1.0], [2.0]])
        >>> groups = ws.symmetry.infer(apply, params, x)
        >>> grams = ws.trace.taps(apply, params, x, read="gram")
        >>> refit(params, grams, groups, {0: np.array([0])})[0].round(3).tolist()
        [1.6670000553131104, 0.0]
    """
    given, gates = contributions(params, grams, groups), {}
    for id, index in kept.items():
        group = check_id(groups, id)
        if id not in given:
            raise WeightSpaceError(
                f"group {id} ({group.sites[0]}): no leaf with a Gram matrix consumes it"
            )
        shape, g = unit_shape(groups, group), given[id]
        # A row of the identity for each unit that stays.
        stays = jnp.eye(group.size, dtype=g.dtype)[jnp.asarray(index)].sum(-2)
        stays = jnp.broadcast_to(stays, shape).reshape(-1)
        inside = g * stays[:, None] * stays[None]
        delta = jnp.linalg.pinv(inside, rtol=1e-5, hermitian=True) @ (g.sum(1) * stays)
        gates[id] = (delta * stays).reshape(shape)  # rounding leaves traces outside
    return gates


def gate(params: Params, groups: Groups, gates: Mapping[int, Array]) -> Params:
    """Multiply what each unit gives to others: its outgoing weights by a number.

    Zeros and ones try out a pruning without changing a shape.

    Args:
      params: a tree.
      groups: of the model.
      gates: group id to `[units]` or `[*sizes of per, units]`.

    Returns:
      The tree, every leaf as it was but for its numbers.

    Raises:
      WeightSpaceError: naming the leaf, where one is produced along the same axis too, as a tied
        embedding is; for a frozen group.

    Example:
        >>> from wslax.symmetry import Groups
        >>> params = {"in": jnp.ones((1, 2)), "out": jnp.ones((2, 1))}
        >>> groups = Groups.from_sites(params, [[("in", 1, "produced"), ("out", 0, "consumed")]])
        >>> gate(params, groups, {0: jnp.array([0.0, 2.0])})["out"].tolist()
        [[0.0], [2.0]]
    """
    found = locate(params, groups)
    plan: dict[str, list[tuple[Array, Array]]] = {}
    for id, values in gates.items():
        group = check_id(groups, id)
        values = jnp.broadcast_to(jnp.asarray(values), unit_shape(groups, group)).reshape(-1)
        roles: dict[Any, list[Site]] = {}
        for site in group.sites:
            roles.setdefault(layout.place(site), []).append(site)
        for sites in roles.values():
            if not any(site.role == "consumed" for site in sites):
                continue
            if len(sites) > 1:
                raise WeightSpaceError(
                    f"{sites[0].name}: makes the units of group {id} and reads them along one axis,"
                    " so what they give cannot be changed alone"
                )
            owner = owners(groups, group, sites[0])
            plan.setdefault(sites[0].name, []).append((values, owner))

    def change(name: str, leaf: Any) -> Any:
        todo = plan.get(found.get(name, ""), ())
        if not todo or not tree.is_float(leaf):
            return leaf
        x = jnp.asarray(leaf).astype(tree.wide(leaf))
        for values, owner in todo:
            x = x * jnp.append(values.astype(x.dtype), jnp.ones(1, x.dtype))[owner]
        return tree.cast_like(x, leaf)

    return tree.map_named(change, params)
