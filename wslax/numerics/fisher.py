"""Fisher information: which parameters the outputs depend on, and how much."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Params


def fisher_information(
    log_prob: Callable[[Params, Any], Array], params: Params, inputs: Any, *, chunk: int = 8
) -> Params:
    r"""The diagonal of the Fisher information, exact in the classes and per example.

    \[F = \frac{1}{E} \sum_x \sum_y p(y|x) \, \big(\partial_\theta \log p(y|x)\big)^2\]

    Labels play no part. Widely used code squares the gradient of a whole batch's
    \(\sum_{x,y} \sqrt{p} \log p\) instead, where the cross terms do not vanish.

    Args:
      log_prob: `(params, x) -> [classes]`, log-probabilities of one example. Keep one function
        object: the compiled program belongs to it.
      params: one model. Of a population, `jax.vmap` of this over members (and inputs).
      inputs: examples, a tree of arrays `[E, ...]`.
      chunk: examples at a time, at least 1; memory is `chunk * classes` gradients.

    Returns:
      A tree like the parameters, in float32 (float64 for float64); 0 for leaves without floats.

    Raises:
      WeightSpaceError: if the inputs do not share a leading axis, or `chunk` is below 1.

    References:
      Matena and Raffel 2022, Merging models with Fisher-weighted averaging, arXiv:2111.09832,
      equation 4.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_prob = lambda p, x: jax.nn.log_softmax(jnp.stack([p["w"] * x, 0.0]))
        >>> found = fisher_information(log_prob, {"w": jnp.float32(0.0)}, jnp.array([2.0]))
        >>> round(float(found["w"]), 5)
        1.0
    """
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(inputs)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise WeightSpaceError(f"inputs: expected arrays [E, ...] of one E, got {sorted(sizes)}")
    if chunk < 1:
        raise WeightSpaceError(f"chunk: expected at least 1, got {chunk}")
    return _fisher_information(log_prob, params, inputs, chunk)


@partial(jax.jit, static_argnames=("log_prob", "chunk"))
def _fisher_information(log_prob: Any, params: Any, inputs: Any, chunk: int) -> Any:
    leaves, structure = jax.tree.flatten(params)
    mine = [i for i, x in enumerate(leaves) if tree.is_float(x)]
    floats = [leaves[i].astype(tree.wide(leaves[i])) for i in mine]
    examples = len(jax.tree.leaves(inputs)[0])

    def log_probs(floats: list[Any], x: Any) -> Any:
        full = list(leaves)
        for i, value in zip(mine, floats, strict=True):
            full[i] = value
        return log_prob(structure.unflatten(full), x)

    def one(x: Any) -> list[Any]:
        found, pull = jax.vjp(lambda floats: log_probs(floats, x), floats)
        (rows,) = jax.vmap(pull)(jnp.diag(jnp.exp(found / 2)))
        return [(row * row).sum(0) for row in rows]

    def add(total: list[Any], batch: Any) -> tuple[list[Any], None]:
        return [t + x.sum(0) for t, x in zip(total, jax.vmap(one)(batch), strict=True)], None

    whole = examples // chunk * chunk
    rows = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), inputs)
    total, _ = jax.lax.scan(add, [jnp.zeros_like(x) for x in floats], rows)
    if whole < examples:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], inputs))
    out = [jnp.zeros(x.shape, jnp.float32) for x in leaves]
    for i, value in zip(mine, total, strict=True):
        out[i] = value / examples
    return structure.unflatten(out)
