"""Structured pruning of a ResNet-50 against Torch-Pruning."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.runner import Row
from wslax import select, symmetry, tree
from wslax.errors import WeightSpaceError

TITLE = "Structured pruning"
ABOUT = """
A ResNet-50 (bottlenecks, 25.6 M parameters, batch norm with running statistics, random weights) is
made half as wide: half of the channels of every free group go, by DepGraph's group norm of kernels.
`symmetry.infer` reads the groups from the model's program, traced on shapes; `scores.along` sums
squares along them, `select.prune` slices parameters and statistics. Torch-Pruning's pruner is made
(it runs the model once and builds its dependency graph) and takes its step, on the same net written
in PyTorch. Each starts from the model and ends with the small one, on the same cores, in turn; both
have run once before, on another copy of the model.
Groups are data, so a run may also begin with those of an earlier one. Weights are host arrays, as
read from a file, and JAX arrays, whose first call compiles its slices.
"""
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
PARAMETERS = 25_557_032
IMAGE = (1, 224, 224, 3)


def convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pad, dimension_numbers=numbers)


def normed(x: Any, p: Any, s: Any) -> Any:
    scale = p["scale"] * jax.lax.rsqrt(s["var"] + 1e-5)
    return (x - s["mean"]) * scale + p["bias"]


def apply(variables: Any, x: Any) -> Any:
    """ResNet-50, v1.5: the stride is in the 3 x 3 convolution."""

    def layer(name: str, x: Any, stride: int = 1) -> Any:
        own = (variables[part][name] for part in ("params", "batch_stats"))
        params, statistics = own
        return normed(convolve(x, params["kernel"], stride), params, statistics)

    x = jax.nn.relu(layer("stem", x, 2))
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)
    for stage, count in enumerate(BLOCKS):
        for block in range(count):
            name, stride = f"{stage}_{block}", 2 if stage and not block else 1
            y = jax.nn.relu(layer(f"{name}a", x))
            y = layer(f"{name}c", jax.nn.relu(layer(f"{name}b", y, stride)))
            x = jax.nn.relu(y + (x if block else layer(f"{name}s", x, stride)))
    head = variables["params"]["head"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]


def weights(rng: np.random.Generator) -> Any:
    """Random weights as host arrays."""
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}

    def layer(name: str, window: int, n: int, m: int) -> None:
        kernel = rng.standard_normal((window, window, n, m), np.float32) / (window * n**0.5)
        ones, zeros = np.ones(m, np.float32), np.zeros(m, np.float32)
        params[name] = {"kernel": kernel, "scale": ones, "bias": zeros}
        statistics[name] = {"mean": zeros, "var": ones}

    layer("stem", 7, 3, 64)
    wide = 64
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for block in range(count):
            name = f"{stage}_{block}"
            layer(f"{name}a", 1, wide, width)
            layer(f"{name}b", 3, width, width)
            layer(f"{name}c", 1, width, 4 * width)
            if not block:
                layer(f"{name}s", 1, wide, 4 * width)
            wide = 4 * width
    kernel = rng.standard_normal((wide, 1000), np.float32) / wide**0.5
    params["head"] = {"kernel": kernel, "bias": np.zeros(1000, np.float32)}
    return {"params": params, "batch_stats": statistics}


def pruned(variables: Any, groups: symmetry.Groups) -> Any:
    squares = jax.tree.map(lambda w: w * w, variables["params"])
    scores = select.scores.along(groups, squares, where="*/kernel")
    return select.prune(groups, scores, density=0.5).apply(variables)


def infer(variables: Any) -> symmetry.Groups:
    def model(variables: Any, x: Any) -> Any:  # a new one each time, or the trace would be known
        return apply(variables, x)

    return symmetry.infer(model, variables, jax.ShapeDtypeStruct(IMAGE, jnp.float32))


def torch_net() -> Any:
    """The same net in PyTorch."""
    from torch import nn

    def layer(n: int, m: int, window: int, stride: int = 1) -> Any:
        conv = nn.Conv2d(n, m, window, stride, window // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(m))

    class Block(nn.Module):
        def __init__(self, wide: int, width: int, stride: int, first: bool) -> None:
            super().__init__()
            self.a, self.b = layer(wide, width, 1), layer(width, width, 3, stride)
            self.c = layer(width, 4 * width, 1)
            self.s = layer(wide, 4 * width, 1, stride) if first else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = nn.functional.relu(self.a(x))
            y = self.c(nn.functional.relu(self.b(y)))
            return nn.functional.relu(y + self.s(x))

    parts: list[Any] = [layer(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    wide = 64
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for block in range(count):
            parts.append(Block(wide, width, 2 if stage and not block else 1, not block))
            wide = 4 * width
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 1000)]
    return nn.Sequential(*parts, *pool).eval()


def by_torch_pruning() -> tuple[float, float, int]:
    """Seconds to make the pruner and to take its step, and what is left."""
    import torch
    import torch_pruning

    model = torch_net()
    image = torch.zeros(1, 3, 224, 224)
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        image,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model[-1]],
    )
    made = time.perf_counter()
    pruner.step()
    stepped = time.perf_counter()
    return made - start, stepped - made, sum(p.numel() for p in model.parameters())


def timed(fn: Any, *args: Any) -> tuple[float, Any]:
    time.sleep(0.5)  # until PyTorch's threads have stopped to spin
    start = time.perf_counter()
    out = jax.block_until_ready(fn(*args))
    return time.perf_counter() - start, out


def measure(repeats: int) -> list[Row]:
    try:
        import torch_pruning
    except ImportError as error:
        raise WeightSpaceError(
            "this benchmark is against Torch-Pruning: `pip install torch torch-pruning`"
        ) from error
    del torch_pruning
    host = weights(np.random.default_rng(0))
    assert tree.size(host["params"]) == PARAMETERS
    device = jax.tree.map(jnp.asarray, host)
    seconds: dict[str, list[float]] = {}
    sizes = set()
    groups = infer(host)
    first, _ = timed(pruned, device, groups)
    by_torch_pruning()
    for _ in range(repeats):
        made, stepped, left = by_torch_pruning()
        read, groups = timed(infer, host)
        on_host, small = timed(pruned, host, groups)
        on_device, _ = timed(pruned, device, groups)
        sizes |= {left, tree.size(small["params"])}
        for name, value in (
            ("infer", read),
            ("host", on_host),
            ("device", on_device),
            ("peer", made + stepped),
            ("step", stepped),
        ):
            seconds.setdefault(name, []).append(value)
    assert len(sizes) == 1, f"the nets differ: {sizes}"
    over = lambda a, b: [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
    whole = [a + b for a, b in zip(seconds["infer"], seconds["host"], strict=True)]
    both = [a / b for a, b in zip(whole, seconds["peer"], strict=True)]
    peer = "Torch-Pruning's pruner and step"
    return [
        Row(f"groups, scores and slices, over {peer}", both, "x", "<= 1"),
        Row(
            "scores and slices with groups known, over its step", over("host", "step"), "x", "<= 1"
        ),
        Row("the same of JAX arrays, over its step", over("device", "step"), "x", "<= 1"),
        Row("groups", seconds["infer"], "s"),
        Row("scores and slices", seconds["host"], "s"),
        Row("scores and slices of JAX arrays, the first call", [first], "s"),
        Row(peer, seconds["peer"], "s"),
        Row("parameters kept", [sizes.pop() / PARAMETERS], "x"),
    ]
