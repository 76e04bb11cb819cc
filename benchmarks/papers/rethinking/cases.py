"""Data and nets that are pruned, and their training."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.merging.families import halved


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Images, and nets for them.

    Attributes:
      name: of the data.
      net: of given widths.
      apply: what `net(widths).apply` is for any widths, in less time.
      widths: of the net that is pruned.
      parts: `(x, y)` for training, validation and testing.
    """

    name: str
    net: Callable[[Sequence[int]], ws.nets.Net]
    apply: Callable[[Any, Any], Any]
    widths: tuple[int, ...]
    parts: tuple[tuple[Any, Any], ...]

    @functools.cached_property
    def groups(self) -> ws.symmetry.Groups:
        """Of the net that is pruned."""
        whole = self.net(self.widths)
        return ws.symmetry.infer(
            whole.apply, jax.eval_shape(whole.init, jr.key(0)), self.parts[0][0][:2]
        )


def _shifts(x: Any) -> Any:
    """What each place of a 3x3 convolution of stride 2 sees, for sides that are even."""
    side = x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    parts = [x[:, i : i + side : 2, j : j + side : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, -1)


def convolved(params: Any, x: Any) -> Any:
    """`ws.nets.conv` as matrix products: on a CPU its slope takes a tenth of the time."""
    at = lambda channels: channels[None, None, None]
    for i in range(sum(name.startswith("conv_") for name in params)):
        conv, norm = params[f"conv_{i}"], params[f"norm_{i}"]
        x = _shifts(x) @ conv["kernel"].reshape(-1, conv["bias"].size) + at(conv["bias"])
        away = x - x.mean((1, 2, 3), keepdims=True)
        x = away * jax.lax.rsqrt(jnp.square(away).mean((1, 2, 3), keepdims=True) + 1e-6)
        x = jax.nn.relu(x * at(norm["scale"]) + at(norm["bias"]))
    return x.mean((1, 2)) @ params["out"]["kernel"] + params["out"]["bias"][None]


def cases() -> tuple[list[Case], list[str]]:
    """Those whose data is here, and what the others lack."""
    digits, images = ws.data.mnist(), cifar(6_000, 3_000)
    mlp = lambda widths: ws.nets.mlp(784, widths, 10)
    found = [Case("MNIST", mlp, mlp((100, 100)).apply, (100, 100), tuple(digits))]
    if images is not None:
        train, (x, y) = [(halved(x), y) for x, y in images]
        parts = (train, (x[:1000], y[:1000]), (x[1000:], y[1000:]))
        conv = lambda widths: ws.nets.conv(16, widths, 10, 3)
        found.append(Case("CIFAR-10-JPEG", conv, convolved, (16, 32, 64), parts))
    return found, told_missing(images)


def makers(groups: ws.symmetry.Groups, role: str) -> dict[int, str]:
    """The kernel that makes (`"produced"`) or reads (`"consumed"`) each free group."""
    return {
        group.id: site.name
        for group in groups.free
        for site in group.sites
        if site.role == role and site.name.endswith("kernel")
    }


def l1(params: Any, groups: ws.symmetry.Groups) -> dict[int, Any]:
    """The absolute sum of the weights that make each unit (Li et al., arXiv:1608.08710)."""
    leaves, made = ws.tree.named_leaves(params), makers(groups, "produced")
    return {id: jnp.abs(leaves[name]).reshape(-1, leaves[name].shape[-1]).sum(0)
            for id, name in made.items()}  # fmt: skip
