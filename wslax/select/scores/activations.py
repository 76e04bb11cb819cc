"""Scores by what the model does on data; no gradients, no labels."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.align.features import activations
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.typing import Array, Params


def wanda(params: Params, norms: Mapping[str, Array]) -> Params:
    r"""\(|W_{ij}| \, \lVert X_i \rVert_2\): weights by what they give to their output on data.

    The authors rank within each output: `masks.top(scores, density=0.5, axis=select.inputs(params,
    groups), rest=True)`, or `masks.n_of_m` along the inputs. They prune layer by layer and read the
    norms of each behind pruned ones: call with the norms of some layers at a time for that.

    Args:
      params: a tree.
      norms: `trace.taps(apply, params, *inputs, read="norms")`; over several batches the root of
        the sum of their squares.

    Returns:
      A tree like `params` of scores in float32; leaves that meet no data in a product get bools,
      which masks leave alone.

    Raises:
      WeightSpaceError: if there are no norms, or they do not fit a leaf.

    References:
      Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models,
      arXiv:2306.11695, equation 1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.array([[1.0, -2.0], [3.0, 1.0]])}
        >>> x = jnp.array([[4.0, 0.0], [3.0, 1.0]])
        >>> norms = ws.trace.taps(lambda p, x: x @ p["w"], params, x, read="norms")
        >>> wanda(params, norms)["w"].tolist()
        [[5.0, 10.0], [3.0, 1.0]]
    """
    named = tree.named_leaves(params)
    for name, norm in norms.items():
        leaf = named.get(name)
        fits = leaf is not None and norm.ndim == leaf.ndim
        if not fits or any(n not in (1, m) for n, m in zip(norm.shape, leaf.shape, strict=True)):
            have = "no such leaf" if leaf is None else tree.aval(leaf)
            raise WeightSpaceError(f"{name}: norms are {tree.aval(norm)}, params have {have}")
    if not norms:
        raise WeightSpaceError("wanda needs norms: trace.taps(apply, params, x, read='norms')")

    def scored(name: str, leaf: Any) -> Any:
        if name not in norms:
            return jnp.zeros(jnp.shape(leaf), bool)
        return jnp.abs(leaf.astype(tree.wide(leaf))) * norms[name]

    return tree.map_named(scored, params)


def activity(
    apply: Callable[..., Any], params: Params, groups: Groups, *inputs: Any
) -> dict[int, Array]:
    r"""The mean \(|{\rm activation}|\) of each unit over data, where it is used.

    Weight subcloning's score, and a plain baseline for pruning.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`.
      params: its parameters.
      groups: of the model.
      *inputs: a batch of data.

    Returns:
      Group id to `[*sizes of per, units]`, the mean over the places where the group is read.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    References:
      Samragh et al. 2023, Weight subcloning, arXiv:2312.09299.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
        >>> x = jnp.array([[1.0], [-1.0]])
        >>> activity(apply, params, ws.symmetry.infer(apply, params, x), x)[0].tolist()
        [0.5, 0.5, 1.0]
    """
    seen = activations(apply, params, groups, *inputs)
    mean = lambda x: jnp.mean(jnp.abs(x.astype(tree.wide(x))), 0)
    return {id: jnp.mean(jnp.stack([mean(x) for x in parts]), 0) for id, parts in seen.items()}
