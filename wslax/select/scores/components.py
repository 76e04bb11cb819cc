"""ModHiFi: how well a layer's output is made from some of its input units alone."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.select.layers import met
from wslax.symmetry.find import locate
from wslax.symmetry.gather import owners
from wslax.symmetry.matrices import MatrixAxes, to_matrices
from wslax.symmetry.scaling import unit_shape
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array, Params


def _owners(groups: Groups, group: Group, name: str, axes: MatrixAxes) -> np.ndarray | None:
    """The flat unit that each input of a leaf belongs to, `[batch, inputs]`, the count if to none.

    None where the leaf does not read the group, or reads other units for other outputs.
    """
    shape = groups.shape[name]
    found = [
        np.broadcast_to(owners(groups, group, site), shape)
        for site in group.sites
        if site.name == name and site.role == "consumed"
    ]
    if not found:
        return None
    batch = [a for a in range(len(shape)) if a not in (*axes.consumed, *axes.produced)]
    owner = np.min(found, axis=0).transpose(*batch, *axes.consumed, *axes.produced)
    inputs, outputs = (math.prod(shape[a] for a in part) for part in axes)
    owner = owner.reshape(-1, inputs, outputs)
    return None if (owner != owner[..., :1]).any() else owner[..., 0]


def contributions(params: Params, grams: Mapping[str, Array], groups: Groups) -> dict[int, Array]:
    r"""Inner products of what the units of a group give to the layers that read them.

    With \(y_u\) the part of the outputs that comes from unit \(u\), \(G_{uv} = \mathrm{E} \langle
    y_u, y_v \rangle\), which is \((W W^T) \circ \mathrm{E}[x x^T]\) summed over the inputs that
    belong to each unit, and over all layers that read the group.

    Args:
      params: a tree.
      grams: `trace.taps(apply, params, *inputs, read="gram")`; over batches their sum.
      groups: of the model.

    Returns:
      Group id to `[units, units]`, of all outer units of a group in one; for free groups that a
      leaf with a Gram matrix consumes.

    Raises:
      WeightSpaceError: if a Gram matrix does not fit its leaf, or the groups the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(2), "out": jnp.array([[1.0], [2.0]])}
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> grams = ws.trace.taps(apply, params, x, read="gram")
        >>> contributions(params, grams, ws.symmetry.infer(apply, params, x))[1].tolist()
        [[2.0, 2.0], [2.0, 4.0]]
    """
    axes, original = met(params, grams, groups), locate(params, groups)
    leaves = tree.named_leaves(params)
    found: dict[int, Array] = {}
    for group in groups.free:
        count = math.prod(unit_shape(groups, group))
        for name, own in axes.items():
            owner = _owners(groups, group, original[name], own)
            if owner is None:
                continue
            w = to_matrices(leaves[name].astype(tree.wide(leaves[name])), own)
            w, gram = (x.reshape(-1, *x.shape[-2:]) for x in (w, grams[name]))
            each = gram * jnp.einsum("bio,bjo->bij", w, w, precision="highest")
            whole = jnp.zeros((count + 1, count + 1), each.dtype)
            whole = whole.at[owner[:, :, None], owner[:, None, :]].add(each)[:-1, :-1]
            found[group.id] = found[group.id] + whole if group.id in found else whole
    return found


def fidelity(params: Params, grams: Mapping[str, Array], groups: Groups) -> dict[int, Array]:
    r"""How much of the layers' output one unit alone can make, from 0 to 1.

    \(s_u = \mathrm{E}\langle y, y_u \rangle^2 / (\mathrm{E}\lVert y_u \rVert^2 \,
    \mathrm{E}\lVert y \rVert^2)\) is 1 less the relative error of the best \(\delta y_u\) for \(y =
    \sum_u y_u\). With `contributions` \(G\) it is \((G 1)_u^2 / (G_{uu} \, 1^T G 1)\). Units of the
    highest scores are kept and rescaled (`select.refit`). To make a model forget a class, zero the
    units that score high on its inputs and low on others (`select.gate`): inputs are all that is
    needed, without labels, gradients or a loss.

    Args:
      params: as in `contributions`.
      grams: as in `contributions`.
      groups: as in `contributions`.

    Returns:
      Group id to `[*sizes of per, units]`; 0 for a unit that gives nothing.

    Raises:
      WeightSpaceError: as `contributions`.

    References:
      Kashyap et al. 2025, ModHiFi, arXiv:2511.19566.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.eye(2), "out": jnp.array([[1.0], [2.0]])}
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> grams = ws.trace.taps(apply, params, x, read="gram")
        >>> fidelity(params, grams, ws.symmetry.infer(apply, params, x))[1]
        Array([0.8, 0.9], dtype=float32)
    """
    scores: dict[int, Array] = {}
    for id, g in contributions(params, grams, groups).items():
        both = g.sum(1) ** 2, jnp.diagonal(g) * g.sum()
        some = both[1] > 0
        score = jnp.where(some, both[0], 0) / jnp.where(some, both[1], 1)
        scores[id] = score.reshape(unit_shape(groups, groups.all[id]))
    return scores
