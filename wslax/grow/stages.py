"""Learngene by stage-wise weight sharing: one trained net that starts nets of any depth.

The *auxiliary net* has S blocks, its stages, and applies each of them several times in a row
(SWS, Xia et al., arXiv:2404.16897). Its parameters are those of a net of depth S whose blocks are
stacked on a leading axis, as `jax.lax.scan` reads them: initialise it with the net's own `init` and
that depth. Train it through `materialise`, best by `nets.distillation` from a large net, then
`expand` it once for each depth that is wanted, and train on, untied, with a fresh optimizer state.

Everything that is not in a stage (embeddings, final norm, head) passes unchanged. For a net whose
blocks are a list, stack them with `population.stack`, and take them apart with
`population.unstack`.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Params, Where


def spread(depth: int, stages: int) -> tuple[int, ...]:
    """The order of stages for a net of some depth: as even as can be, earlier stages first.

    Args:
      depth: layers of the net.
      stages: of the auxiliary net.

    Returns:
      The stage of each layer.

    Raises:
      WeightSpaceError: if there are fewer layers than stages.

    Example:
        >>> spread(12, 5)  # the authors' list for 12 layers
        (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4)
    """
    if not 1 <= stages <= depth:
        raise WeightSpaceError(
            f"depth: expected at least one layer for each of {stages} stages, got {depth}; give "
            "`expand` an order that leaves some out"
        )
    each, more = divmod(depth, stages)
    return tuple(s for s in range(stages) for _ in range(each + (s < more)))


def expand(params: Params, order: Sequence[int], *, where: Where) -> Params:
    """The parameters of a net whose layers are copies of stages.

    The function is the auxiliary net's where the order repeats the stages as that net does. With
    other numbers of repeats it is near, because a stage has learnt to be applied again and again.

    Args:
      params: of the auxiliary net: leaves that `where` picks are `[S, ...]`, one slice a stage.
      order: the stage of each of L layers; static.
      where: globs of the leaves in the stages, such as `"blocks/*"`.

    Returns:
      The tree with those leaves `[L, ...]`, untied when they are trained on; the others unchanged.
      Differentiable: the gradient of a stage is the sum over its layers.

    Raises:
      WeightSpaceError: naming the leaf, if leaves differ in the number of stages or the order names
        a stage that is not there.

    Example:
        >>> import jax.numpy as jnp
        >>> aux = {"blocks": {"w": jnp.array([1.0, 2.0])}, "head": jnp.ones(3)}
        >>> expand(aux, [0, 0, 1], where="blocks/*")["blocks"]["w"].tolist()
        [1.0, 1.0, 2.0]
    """
    index, picked = np.asarray(order, np.int32), tree.named_leaves(tree.picked(params, where))
    count = 0
    for name, leaf in tree.named_leaves(params).items():
        if picked[name]:
            shape = np.shape(leaf)
            count = count or (shape[0] if shape else 0)
            if not count or shape[:1] != (count,):
                wanted = f"{count} stages" if count else "a leading axis of stages"
                raise WeightSpaceError(f"{name}: expected {wanted}, got {tree.aval(leaf)}")
    if index.ndim != 1 or not index.size or not ((index >= 0) & (index < count)).all():
        raise WeightSpaceError(
            f"order: expected stages from 0 to {count - 1}, one a layer, got {list(order)}"
        )

    def layers(name: str, leaf: Any) -> Any:
        return tree.cast_like(jnp.take(leaf, index, 0), leaf) if picked[name] else leaf

    return tree.map_named(layers, params)


def materialise(params: Params, lengths: Sequence[int], *, where: Where) -> Params:
    """The auxiliary net as a plain net: each stage as many times in a row as it is long.

    Args:
      params: leaves that `where` picks are `[S, ...]`.
      lengths: of each stage; static. The authors' 16 layers are 3, 3, 4, 3, 3.
      where: globs of the leaves in the stages.

    Returns:
      What `expand` returns for that order.

    Raises:
      WeightSpaceError: as `expand`, and if there is not one length of at least 1 for each stage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> aux = {"w": jnp.array([1.0, 2.0])}
        >>> loss = lambda p: jnp.sum(materialise(p, [3, 1], where="w")["w"])
        >>> jax.grad(loss)(aux)["w"].tolist()
        [3.0, 1.0]
    """
    if min(lengths, default=0) < 1:
        raise WeightSpaceError(f"lengths: expected at least 1 for each stage, got {list(lengths)}")
    picked = tree.named_leaves(tree.picked(params, where))
    for name, leaf in tree.named_leaves(params).items():
        if picked[name] and np.shape(leaf)[:1] != (len(lengths),):
            raise WeightSpaceError(
                f"{name}: expected {len(lengths)} stages, one for each length, got "
                f"{tree.aval(leaf)}"
            )
    return expand(params, np.repeat(np.arange(len(lengths)), lengths).tolist(), where=where)
