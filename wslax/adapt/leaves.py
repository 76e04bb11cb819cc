"""Training whole leaves: norms, biases, or all."""

from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapter import Adapter
from wslax.trace import Mix
from wslax.trace.leaves import is_factored, wide
from wslax.typing import Key, Params, Where


def whole(*, where: Where = None) -> Adapter:
    r"""Whole leaves: \(W + C\) with \(C\) of the leaf's shape, zero at the start.

    `train` holds `change`, in float32 (float64 for float64), so leaves of half types are trained
    in full precision and rounded where they are used. With `where=adapt.biases(params)` this is
    BitFit, with `adapt.norms(params)` training norms alone, by default full fine-tuning.

    Args:
      where: globs of the leaves to train; by default all of floats, of any shape.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is not of floats; from `apply` and `fuse`, if parts
        do not fit the model's leaves.

    References:
      Ben Zaken, Goldberg and Ravfogel 2021, arXiv:2106.10199 (BitFit); Frankle, Schwab and Morcos
      2020, arXiv:2003.00152 (batch norms alone).

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = whole(where="*bias")
        >>> adapter.init(0, {"w": jnp.ones((3, 2)), "bias": jnp.ones(2)})[0]
        {'bias': {'change': Array([0., 0.], dtype=float32)}}
    """

    def start(_: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        return {"change": jnp.zeros(leaf.shape, tree.wide(leaf))}, {}

    def change(leaf: Any, parts: Parts) -> Any:
        if is_factored(leaf):
            return Mix(leaf, parts["change"][None], jnp.ones(1, parts["change"].dtype))
        return wide(leaf) + parts["change"].astype(tree.wide(leaf))

    return leafwise(start, change, where, whole=True)


def biases(params: Params) -> list[str]:
    """The leaves that are biases, by name: floats whose last word ends in `bias`.

    Args:
      params: the model; those of norms count, as in BitFit.

    Returns:
      Names, to be given as `where=`.

    Example:
        >>> import jax.numpy as jnp
        >>> biases({"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
        ['dense/bias']
    """
    named = tree.named_leaves(params)
    return [name for name, x in named.items() if tree.is_float(x) and name.endswith("bias")]


def norms(params: Params) -> list[str]:
    """The factors and shifts of norms, by their names and shapes.

    A norm is a module that has a `scale`, or a vector called `weight` (PyTorch, Equinox); its
    `bias` belongs to it, its running statistics do not.

    Args:
      params: the model.

    Returns:
      Names, to be given as `where=`.

    Example:
        >>> import jax.numpy as jnp
        >>> vector = jnp.ones(2)
        >>> norms({"norm": {"scale": vector, "bias": vector}, "dense": {"bias": vector}})
        ['norm/bias', 'norm/scale']
    """
    named = {name: x for name, x in tree.named_leaves(params).items() if tree.is_float(x)}

    def ends(name: str) -> tuple[str, str]:
        module, _, last = name.replace(".", "/").rpartition("/")
        return module, last

    found = {
        ends(name)[0]
        for name, x in named.items()
        if ends(name)[1] == "scale" or (ends(name)[1] == "weight" and len(x.shape) == 1)
    }
    return [n for n in named if ends(n)[0] in found and ends(n)[1] in ("scale", "weight", "bias")]
