"""Methods beyond mergekit's that checkpoints on disk can be merged by.

Masks are elementwise and stream as the methods of the registry do. Methods of matrices see a tensor
of all members at once: they are the functions in memory, called on one tensor at a time, so memory
holds a few times the largest tensor of all members, and JAX is imported. A matrix is PyTorch's
`[out, in]`, or Flax's `[in, out]` where its name ends in `kernel`.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wslax.merge.method import Leaf, Method, Param, no_rounds

_LAM = Param("lam", "factor of the merged task vector", 1.0, yaml="lambda")
_ONE_AT_A_TIME = threading.Lock()  # LAPACK under JAX waits in the thread pool that it needs


def _magmax(leaf: Leaf) -> Any:
    turned = leaf.stack(lambda m: m.delta)[::-1]  # the first of equals is then the last member
    at = leaf.xp.argmax(leaf.xp.abs(turned), axis=0)
    return leaf.base + leaf.params["lam"] * leaf.xp.take_along_axis(turned, at[None], axis=0)[0]


def _consensus(leaf: Leaf) -> Any:
    deltas, xp = leaf.stack(lambda m: m.delta), leaf.xp
    total = deltas.sum(0)
    needed = xp.abs(deltas) > leaf.params["mask_lam"] * xp.abs(total - deltas)
    heard = needed.sum(0) >= leaf.params["least"]
    return leaf.base + leaf.params["lam"] * (total * heard)


def _over_whole(params: Mapping[str, Any]) -> Any:
    return "whole"


def _in_memory(function: str) -> Callable[[Leaf], Any]:
    """The function of that name in `wslax.merge`, on one tensor."""

    def combine(leaf: Leaf) -> Any:
        import jax

        from wslax import merge

        stack, base = leaf.stack(lambda m: m.x), leaf.base
        turn = stack.ndim == 3 and not leaf.name.endswith("kernel")
        given = {k: float(v) if isinstance(v, np.floating) else v for k, v in leaf.params.items()}
        with _ONE_AT_A_TIME, jax.enable_x64(stack.dtype == np.float64):
            found = getattr(merge, function)(
                {"w": stack.swapaxes(1, 2) if turn else stack}, {"w": base.T if turn else base},
                **given,
            )["w"]  # fmt: skip
            return np.asarray(found.T if turn else found)

    return combine


def _of_matrices(name: str, about: str, source: str, formula: str, *params: Param) -> Method:
    return Method(
        name=name,
        about=about,
        source=source,
        formula=formula,
        combine=_in_memory(name),
        rounds=no_rounds,
        params=params,
        base="required",
        scope=_over_whole,
    )


FURTHER: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="magmax",
            about="Of each entry the change that is largest in magnitude.",
            source="Marczak et al. 2024, MagMax, arXiv:2407.06322",
            formula=r"b + \lambda d_{i^*}, \; i^* = \arg\max_i \lvert d_i\rvert",
            combine=_magmax,
            rounds=no_rounds,
            params=(_LAM._replace(default=0.5),),
            base="required",
        ),
        Method(
            name="consensus",
            about="The sum of task vectors without entries that too few tasks need.",
            source="Wang et al. 2024, Consensus task arithmetic, arXiv:2405.07813",
            formula=r"b + \lambda \big[\sum_i m_i \ge k\big] \sum_i d_i, \; "
            r"m_i = [\lvert d_i\rvert > \mu \lvert \textstyle\sum_j d_j - d_i\rvert]",
            combine=_consensus,
            rounds=no_rounds,
            params=(
                _LAM,
                Param("mask_lam", "how much a task's change outweighs the others'", 0.4,
                      low=0.0, yaml="mask_lambda"),
                Param("least", "tasks that need an entry", 2, kind=int, low=0),
            ),
            base="required",
        ),
        _of_matrices(
            "tsv_m",
            "The leading singular triplets of each task vector, made orthogonal.",
            "Gargiulo et al. 2025, Task singular vectors, arXiv:2412.00081",
            r"B + \lambda\, \hat U\, \mathrm{diag}(\Sigma_1, \ldots, \Sigma_N)\, \hat V^T",
            _LAM,
        ),
        _of_matrices(
            "iso_c",
            "The sum of task vectors with a flat spectrum.",
            "Marczak et al. 2025, Isotropic merging, arXiv:2502.04959",
            r"B + \lambda \bar\sigma\, U V^T, \; \sum_i D_i = U \Sigma V^T",
            _LAM,
        ),
        _of_matrices(
            "iso_cts",
            "A flat spectrum in a common and in task-specific subspaces.",
            "Marczak et al. 2025, Isotropic merging, arXiv:2502.04959",
            r"B + \lambda \bar\sigma\, \hat U \hat V^T, \; "
            r"\hat U = \mathrm{orth}[U_k, U_1, \ldots, U_N]",
            _LAM,
            Param("common", "share of the rank for the common subspace", 0.8, low=0.0, high=1.0),
        ),
        _of_matrices(
            "wudi",
            "Least interference with the task vectors' own inputs, solved.",
            "Cheng et al. 2025, WUDI, arXiv:2503.08099",
            r"B + \lambda D, \; D = \arg\min "
            r"\sum_i \lVert D_i^T (D - D_i)\rVert^2 / \lVert D_i\rVert^2",
            _LAM,
        ),
    )
}  # fmt: skip
