"""LIFT's mask by block Krylov against full, Gram and randomised decompositions in PyTorch."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.runner import Row

TITLE = "Principal masks"
ABOUT = """
`select.principal_mask` of one 4096 x 4096 float32 matrix with singular values i^-0.5 and random
singular vectors, others in each repeat; rank 128, density 5%, compiled. Against it the same mask by
`torch.linalg.svd` (full), by `torch.linalg.eigh` of the Gram matrix (faster than JAX's) and by
`torch.svd_lowrank` (q = 128, 2 iterations, its default, and q = 256 with 8), each with `topk`,
start to end on the same cores; without PyTorch by `numpy.linalg.svd` and `numpy.linalg.eigh`. IoU
is the overlap of a mask with the exact one, which is known because the matrix is built from its
decomposition: common entries over those in either. It is also taken for singular values i^-0.25 and
i^-1, for matrices of the sizes of MiniLM's (i^-0.5, rank 32, solved exactly), and for Gaussian
entries, which have no low-rank part to find (there the exact mask is by numpy's `eigh`). State
bytes are those of `lift(optax.scale_by_adam())` over those of `optax.scale_by_adam()`.
"""
N, RANK, DENSITY = 4096, 128, 0.05
COUNT = round(DENSITY * N * N)
SMALL, SMALL_RANK = ((384, 384), (384, 1536)), 32


def largest(score: np.ndarray) -> np.ndarray:
    """The mask of the share `DENSITY` of largest."""
    count = round(DENSITY * score.size)
    return score >= np.partition(score.ravel(), -count)[-count]


def decaying(rng: np.random.Generator, m: int, n: int, powers: tuple[float, ...], rank: int) -> Any:
    """For each power a matrix with singular values i^power, and its exact mask."""
    k = min(m, n)
    u, v = (np.linalg.qr(rng.standard_normal((side, k), np.float32))[0] for side in (m, n))
    for power in powers:
        scaled = u * (np.arange(1, k + 1) ** power).astype(np.float32)
        yield scaled @ v.T, largest(np.abs(scaled[:, :rank] @ v[:, :rank].T))


def make(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Matrices, each with its exact mask."""
    names = ("", " at i^-0.25", " at i^-1")
    made = dict(zip(names, decaying(rng, N, N, (-0.5, -0.25, -1.0), RANK), strict=True))
    noise = rng.standard_normal((N, N), np.float32)
    leading = np.linalg.eigh(noise @ noise.T)[1][:, -RANK:]
    made[" of Gaussian entries"] = noise, largest(np.abs(leading @ (leading.T @ noise)))
    return made


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    out = fn()
    return time.perf_counter() - begin, out


def by_numpy(w: np.ndarray) -> np.ndarray:
    u, s, vh = np.linalg.svd(w, full_matrices=False)
    return largest(np.abs((u[:, :RANK] * s[:RANK]) @ vh[:RANK]))


def by_numpy_gram(w: np.ndarray) -> np.ndarray:
    leading = np.linalg.eigh(w @ w.T)[1][:, -RANK:]
    return largest(np.abs(leading @ (leading.T @ w)))


def peers() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The others: a matrix to a mask."""
    try:
        import torch
    except ImportError:
        return {"numpy.linalg.svd": by_numpy, "numpy.linalg.eigh": by_numpy_gram}

    def top(low_rank: Any) -> np.ndarray:
        score = low_rank.abs().flatten()
        found = torch.zeros(N * N, dtype=torch.bool)
        found[score.topk(COUNT, sorted=False).indices] = True
        return found.view(N, N).numpy()

    def mask(u: Any, s: Any, vh: Any) -> np.ndarray:
        return top((u[:, :RANK] * s[:RANK]) @ vh[:RANK])

    def full(w: np.ndarray) -> np.ndarray:
        return mask(*torch.linalg.svd(torch.from_numpy(w), full_matrices=False))

    def gram(w: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(w)
        leading = torch.linalg.eigh(x @ x.T)[1][:, -RANK:]
        return top(leading @ (leading.T @ x))

    def sketch(q: int, niter: int) -> Callable[[np.ndarray], np.ndarray]:
        def run(w: np.ndarray) -> np.ndarray:
            u, s, v = torch.svd_lowrank(torch.from_numpy(w), q=q, niter=niter)
            return mask(u, s, v.T)

        return run

    return {
        "torch.linalg.svd": full,
        "torch.linalg.eigh": gram,
        "torch.svd_lowrank": sketch(RANK, 2),
        "torch.svd_lowrank, q 256, 8 iterations": sketch(2 * RANK, 8),
    }


def iou(mask: np.ndarray, exact: np.ndarray) -> float:
    return float((mask & exact).sum() / (mask | exact).sum())


def state_share() -> float:
    """Bytes of LIFT's state over Adam's, from shapes alone."""
    params = {"w": jax.ShapeDtypeStruct((N, N), jnp.float32)}
    adam = optax.scale_by_adam()
    lifted = ws.select.lift(adam, rank=RANK, density=DENSITY, refresh_every=400)
    bytes_ = [ws.tree.nbytes(jax.eval_shape(make.init, params)) for make in (lifted, adam)]
    return bytes_[0] / bytes_[1]


def measure(repeats: int) -> list[Row]:
    """Each repeat a matrix of its own; programs take turns."""

    @jax.jit
    def ours(w: Any) -> Any:
        return ws.select.principal_mask({"w": w}, rank=RANK, density=DENSITY)["w"]

    begin = time.perf_counter()
    ours.lower(jax.ShapeDtypeStruct((N, N), jnp.float32)).compile()
    found: dict[str, list[float]] = {"compilation": [time.perf_counter() - begin]}
    ours(jnp.zeros((N, N))).block_until_ready()
    others = peers()
    for seed in range(repeats):
        made = make(np.random.default_rng(seed))
        for name, (matrix, exact) in made.items():
            mask = np.asarray(ours(jnp.asarray(matrix)))
            found.setdefault(f"principal_mask: IoU{name}", []).append(iou(mask, exact))
        for m, n in SMALL:
            ((matrix, exact),) = decaying(np.random.default_rng(seed), m, n, (-0.5,), SMALL_RANK)
            small = ws.select.principal_mask({"w": matrix}, rank=SMALL_RANK, density=DENSITY)["w"]
            found.setdefault(f"principal_mask: IoU of {m} x {n}", []).append(
                iou(np.asarray(small), exact)
            )
        w, exact = made[""]
        on_device = jax.device_put(w)
        runs = [timed(lambda x=on_device: ours(x).block_until_ready()) for _ in range(3)]
        seconds = sorted(t for t, _ in runs)[1]
        found.setdefault("principal_mask", []).append(seconds)
        for name, other in others.items():
            taken, mask = timed(functools.partial(other, w))
            found.setdefault(name, []).append(taken)
            found.setdefault(f"{name} over principal_mask", []).append(taken / seconds)
            found.setdefault(f"{name}: IoU", []).append(iou(mask, exact))
    rows = [Row(what, values, *_unit(what)) for what, values in sorted(found.items())]
    return [*rows, Row("LIFT's state bytes over Adam's", [state_share()], "x", "<= 0.12")]


def _unit(what: str) -> tuple[str, str | None]:
    match what:
        case "torch.linalg.svd over principal_mask" | "numpy.linalg.svd over principal_mask":
            return "x", ">= 20"
        case "torch.linalg.eigh over principal_mask" | "numpy.linalg.eigh over principal_mask":
            return "x", ">= 8"
        case "principal_mask: IoU of Gaussian entries":
            return "", None
        case _ if what.startswith("principal_mask: IoU"):
            return "", ">= 0.98"
        case _ if ": IoU" in what:
            return "", None
        case _ if " over " in what:
            return "x", None
        case _:
            return "s", None
