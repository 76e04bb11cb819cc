"""The best low-rank factors of a change."""

import numpy as np

_ROWS = 1024  # rows of a Gram matrix taken at a time


def factorise(
    change: np.ndarray, max_rank: int = 128, sv_epsilon: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""The best factors of a matrix: \(A = S^{1/2} V^T\), \(B = U S^{1/2}\) of its leading SVD.

    The rank is the number of singular values above `sv_epsilon` and above what float32 tells from
    zero next to the largest, at most `max_rank`. Exact (Eckart and Young) to float32: V comes from
    the eigenvectors of the smaller Gram matrix in float64, and \(B A = D V V^T\) holds whatever
    their rounding. Several times as fast as LAPACK's SVD, the time grows with the cube of the
    smaller side all the same.

    Args:
      change: \(D\), float32 or float64, `[out, in]`.
      max_rank: greatest rank (128, mergekit's).
      sv_epsilon: singular values up to this are left out (0, mergekit's).

    Returns:
      A `[r, in]` and B `[out, r]`, in the dtype of `change`.

    References:
      Eckart and Young 1936, "The approximation of one matrix by another of lower rank".

    Example:
        >>> a, b = factorise(np.outer([1.0, 2.0, 3.0], [1.0, -1.0]))
        >>> a.shape, b.shape, bool(np.allclose(b @ a, np.outer([1, 2, 3], [1, -1])))
        ((1, 2), (3, 1), True)
    """
    import scipy.linalg

    if change.shape[0] < change.shape[1]:
        a, b = factorise(change.T, max_rank, sv_epsilon)
        return b.T, a.T
    size = change.shape[1]
    gram = np.zeros((size, size))
    for start in range(0, len(change), _ROWS):
        rows = change[start : start + _ROWS].astype(np.float64)
        gram += rows.T @ rows
    leading = (max(size - max_rank, 0), size - 1)
    squares, vectors = scipy.linalg.eigh(gram, subset_by_index=leading, overwrite_a=True)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    kept = values > max(sv_epsilon, float(values[0]) * float(np.finfo(np.float32).eps))
    root = np.sqrt(values[kept]).astype(change.dtype)
    v = np.ascontiguousarray(np.flip(vectors, 1)[:, kept], change.dtype)
    return root[:, None] * v.T, (change @ v) / root
