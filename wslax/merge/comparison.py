"""How the task vectors of a population lie to each other, before anything is merged."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.merge.coefficients import of_task_vectors
from wslax.merge.leaves import Leaves
from wslax.merge.parameters import is_concrete
from wslax.numerics.threshold import kth_largest
from wslax.typing import Params, Population, Where


class Report(NamedTuple):
    """What the task vectors of N members are like.

    Attributes:
      norm: `[N]`, the length of each.
      cosine: `[N, N]`, over the whole model.
      agreement: `[N, N]`, of the entries that both change the share changed the same way.
      overlap: `[N, N]`, of the largest entries of one the share that is among the other's largest;
        `density` if they were independent.
      subspace: `[N, N]`, how far both change matrices in the same input directions, 0 to 1.
      rank: `[N]`, effective rank of the changes of matrices, as a share of the full one.
      interference: leaf name to the share of all change that cancels in the sum, 0 to 1.
      density: share of entries called largest.
    """

    norm: Any
    cosine: Any
    agreement: Any
    overlap: Any
    subspace: Any
    rank: Any
    interference: dict[str, Any]
    density: float

    @property
    def advice(self) -> tuple[str, str]:
        """The method to try first, and why: a rule of thumb, no more.

        In this order: the vectors nearly agree (mean cosine at least 0.5): average, as model soups
        do (arXiv:2203.05482). Matrices change by few and the same directions (effective rank below
        a quarter, subspaces overlap by half): decorrelate singular vectors (TSV-M,
        arXiv:2412.00081). Largest entries coincide twice as often as by chance while signs do not
        agree (below 0.6): elect signs (TIES, arXiv:2306.01708). Otherwise the vectors hardly meet:
        add them (task arithmetic, arXiv:2212.04089). The papers give these as reasons; the
        thresholds are this library's and are not measured. A search on held-out data decides.
        """
        if pairs(self.cosine) >= 0.5:
            return "linear", f"task vectors nearly agree: mean cosine {pairs(self.cosine):.2f}"
        if np.mean(self.rank) < 0.25 and pairs(self.subspace) >= 0.5:
            return "tsv_m", (
                f"changes of low rank ({np.mean(self.rank):.0%} of full) share their subspace "
                f"({pairs(self.subspace):.2f})"
            )
        if pairs(self.overlap) > 2 * self.density and pairs(self.agreement) < 0.6:
            return "ties", (
                f"the largest entries meet ({pairs(self.overlap):.0%} in common) and only "
                f"{pairs(self.agreement):.0%} of signs agree"
            )
        return "task_arithmetic", f"task vectors hardly meet: mean cosine {pairs(self.cosine):.2f}"

    def __str__(self) -> str:
        method, why = self.advice
        worst = sorted(self.interference.items(), key=lambda row: -float(row[1]))[:5]
        rows = [
            f"{len(self.norm)} task vectors",
            f"  norms           {np.array2string(np.asarray(self.norm), precision=3)}",
            f"  mean cosine     {pairs(self.cosine):.3f}",
            f"  signs agree     {pairs(self.agreement):.1%}",
            f"  largest {self.density:.0%} meet {pairs(self.overlap):.1%}",
            f"  effective rank  {np.mean(self.rank):.1%} of full, subspaces "
            f"{pairs(self.subspace):.2f} alike",
            "  most change cancelled",
            *(f"    {float(share):.1%}  {name}" for name, share in worst),
            f"try first: {method} ({why}; a rule of thumb)",
        ]
        return "\n".join(rows)


def pairs(matrix: Any) -> float:
    """The mean over pairs of different members; 0 for a single one.

    Example:
        >>> import numpy as np
        >>> pairs(np.array([[1.0, 0.5], [0.25, 1.0]]))
        0.375
    """
    matrix = np.asarray(matrix, float)
    count = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / max(count * (count - 1), 1))


def _over(a: Any, b: Any) -> Any:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _dots(rows: Any) -> Any:
    return jnp.matmul(rows, rows.T, precision="highest")


def _spread(d: Any) -> tuple[Any, Any, Any]:
    """Of matrices `[N, m, n]`: energy, effective rank over the full one, and overlap of Grams."""
    gram = jnp.einsum("nij,nik->njk", d, d, precision="highest").reshape(len(d), -1)
    inner, energy = _dots(gram), jnp.einsum("nij,nij->n", d, d)
    own = jnp.diagonal(inner)
    rank = _over(energy**2, own) / min(d.shape[1:])
    return energy, rank, _over(inner, jnp.sqrt(own[:, None] * own[None]))


@functools.partial(jax.jit, static_argnames="density")
def _measured(vectors: Leaves, density: float) -> Report:
    count = len(next(iter(vectors.values())))
    zero = jnp.zeros((count, count))
    dots, same, both, common, alike, weight = zero, zero, zero, zero, zero, zero
    rank, energy, cancelled = jnp.zeros(count), jnp.zeros(count), {}
    for name, d in vectors.items():
        flat = d.reshape(count, -1)
        size, sign = jnp.abs(flat), jnp.sign(flat)
        k = max(1, int(density * flat.shape[1]))
        least = jax.lax.map(lambda row, k=k: kth_largest(row, k), size)
        top = ((size >= least[:, None]) & (size > 0)).astype(flat.dtype)
        dots, common = dots + _dots(flat), common + _dots(top)
        changed = _dots(jnp.abs(sign))
        both, same = both + changed, same + (changed + _dots(sign)) / 2
        cancelled[name] = 1 - _over(jnp.abs(flat.sum(0)).sum(), size.sum())
        if d.ndim == 3:
            mine, own, gram = _spread(d)
            shared = jnp.sqrt(mine[:, None] * mine[None])
            rank, energy = rank + mine * own, energy + mine
            alike, weight = alike + shared * gram, weight + shared
    norm, most = jnp.sqrt(jnp.diagonal(dots)), jnp.diagonal(common)
    return Report(
        norm,
        _over(dots, norm[:, None] * norm[None]),
        _over(same, both),
        _over(common, jnp.minimum(most[:, None], most[None])),
        _over(alike, weight),
        _over(rank, energy),
        cancelled,
        density,
    )


def report(
    population: Population, base: Params, *, density: float = 0.2, where: Where = None
) -> Report:
    r"""Cosines, signs, overlaps and ranks of task vectors, and the method they suggest.

    With \(d_i = x_i - b\), each sum over the whole model: cosine; share of equal signs where both
    change; overlap \(|T_i \cap T_j| / \min(|T_i|, |T_j|)\) of the largest entries T of each leaf;
    of 2-D leaves, weighed by energy, the effective rank \(\|d\|_F^4 / \|d^T d\|_F^2\) over
    \(\min(m, n)\), and the cosine between \(d_i^T d_i\) and \(d_j^T d_j\). For each leaf
    interference is \(1 - \|\sum_i d_i\|_1 / \sum_i \|d_i\|_1\); vectors that are independent and
    dense have about \(1 - 1/\sqrt N\).

    Args:
      population: N members.
      base: the model they came from.
      density: share of a leaf's entries called largest; 0.2, what TIES keeps.
      where: globs of the leaves to look at.

    Returns:
      A `Report`; `print` it, ask for its `advice`, or draw it with `wslax.report.merging.figures`.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or the density is out of range.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[3.0, 0.0, 1.0], [0.0, 2.0, -1.0]])}
        >>> found = ws.merge.report(experts, {"w": jnp.zeros(3)}, density=0.34)
        >>> found.advice[0], round(float(found.interference["w"]), 3)
        ('task_arithmetic', 0.286)
    """
    if not (is_concrete(density) and 0 < density <= 1):
        raise WeightSpaceError(f"density: expected a number above 0, up to 1, got {density}")
    found = _measured(of_task_vectors(population, base, where).vectors, density)
    return found._replace(density=density)
