"""LIFT's mask by block Krylov against a full and a randomised decomposition in PyTorch."""

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
singular vectors, others in each repeat; rank 128, density 5%, compiled. Against it the same mask
by `torch.linalg.svd` (full) and by `torch.svd_lowrank` (q = 128, 2 iterations, its default, and
q = 256 with 8), each with `topk`, start to end on the same cores; without PyTorch by
`numpy.linalg.svd`. IoU is the overlap of a mask with the exact one, which is known because the
matrix is built from its decomposition: common entries over those in either. It is also taken for
singular values i^-0.25, and for Gaussian entries, which have no low-rank part to find (there the
exact mask is by numpy's `eigh`). State bytes are those of `lift(optax.scale_by_adam())` over those
of `optax.scale_by_adam()`.
"""
N, RANK, DENSITY = 4096, 128, 0.05
COUNT = round(DENSITY * N * N)


def largest(score: np.ndarray) -> np.ndarray:
    """The mask of the `COUNT` largest."""
    return score >= np.partition(score.ravel(), -COUNT)[-COUNT]


def make(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Matrices, each with its exact mask."""
    made = {}
    u, v = (np.linalg.qr(rng.standard_normal((N, N), np.float32))[0] for _ in range(2))
    for name, power in (("", -0.5), (" at i^-0.25", -0.25)):
        scaled = u * (np.arange(1, N + 1) ** power).astype(np.float32)
        made[name] = scaled @ v.T, largest(np.abs(scaled[:, :RANK] @ v[:, :RANK].T))
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


def peers() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The others: a matrix to a mask."""
    try:
        import torch
    except ImportError:
        return {"numpy.linalg.svd": by_numpy}

    def mask(u: Any, s: Any, vh: Any) -> Any:
        score = ((u[:, :RANK] * s[:RANK]) @ vh[:RANK]).abs().flatten()
        found = torch.zeros(N * N, dtype=torch.bool)
        found[score.topk(COUNT, sorted=False).indices] = True
        return found.view(N, N).numpy()

    def full(w: np.ndarray) -> np.ndarray:
        return mask(*torch.linalg.svd(torch.from_numpy(w), full_matrices=False))

    def sketch(q: int, niter: int) -> Callable[[np.ndarray], np.ndarray]:
        def run(w: np.ndarray) -> np.ndarray:
            u, s, v = torch.svd_lowrank(torch.from_numpy(w), q=q, niter=niter)
            return mask(u, s, v.T)

        return run

    return {
        "torch.linalg.svd": full,
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
            return "x", ">= 13"
        case "principal_mask: IoU":
            return "", ">= 0.98"
        case _ if ": IoU" in what:
            return "", None
        case _ if " over " in what:
            return "x", None
        case _:
            return "s", None
