"""Small models written by hand in jnp, with their groups: what growth must keep the function of."""

import jax
import jax.numpy as jnp
import numpy as np

from wslax.symmetry import Groups, Site, feed_forward


def draw(seed, shapes, dtype=np.float64):
    """A tree of normal arrays; what is called var is positive."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    values = []
    for path, shape in leaves:
        x = rng.normal(size=shape)
        values.append((np.abs(x) + 0.5 if path[-1].key == "var" else x).astype(dtype))
    return jax.tree.unflatten(structure, values)


def mlp(params, x):
    h = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    h = jax.nn.gelu(h @ params["b"]["kernel"] + params["b"]["bias"][None])
    return h @ params["out"]["kernel"] + params["out"]["bias"][None]


def mlp_params(seed=0, dtype=np.float64, widths=(3, 5, 4, 2)):
    i, a, b, o = widths
    dense = lambda n, m: {"kernel": (n, m), "bias": (m,)}
    params = draw(seed, {"a": dense(i, a), "b": dense(a, b), "out": dense(b, o)}, dtype)
    return params, feed_forward(params, ["a", "b", "out"])


def convolve(x, kernel, stride):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
    )


def conv(variables, x):
    """A convolution of stride 2, BatchNorm by its running statistics, a convolution, a flatten."""
    params, stats = variables["params"], variables["batch_stats"]
    h = convolve(x, params["c0"]["kernel"], 2)
    norm = params["n0"]["scale"] / jnp.sqrt(stats["n0"]["var"] + 1e-5)
    along = (None, None, None)
    h = jax.nn.relu((h - stats["n0"]["mean"][along]) * norm[along] + params["n0"]["bias"][along])
    h = jax.nn.silu(convolve(h, params["c1"]["kernel"], 1) + params["c1"]["bias"][along])
    h = h.reshape(h.shape[0], -1)
    return h @ params["out"]["kernel"] + params["out"]["bias"][None]


def conv_variables(seed=0, dtype=np.float64):
    vector = {"scale": (4,), "bias": (4,)}
    shapes = {
        "params": {
            "c0": {"kernel": (3, 3, 2, 4)},
            "n0": vector,
            "c1": {"kernel": (3, 3, 4, 3), "bias": (3,)},
            "out": {"kernel": (3 * 3 * 3, 2), "bias": (2,)},
        },
        "batch_stats": {"n0": {"mean": (4,), "var": (4,)}},
    }
    variables = draw(seed, shapes, dtype)
    return variables, feed_forward(variables, ["c0", "n0", "c1", "out"])


def residual(params, x):
    """One stream through an embedding, two blocks with LayerNorm, a square map, and a head."""
    h = x @ params["embed"]
    for block in params["blocks"]:
        mean = h.mean(-1, keepdims=True)
        n = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 1e-3)
        n = n * block["scale"][None]
        h = h + jax.nn.gelu(n @ block["up"]) @ block["down"]
    h = h + jnp.tanh(h @ params["square"])
    return h @ params["head"]


def residual_params(seed=0, normed=True, dtype=np.float64):
    block = {"scale": (4,), "up": (4, 6), "down": (6, 4)}
    shapes = {"embed": (3, 4), "blocks": [block, block], "square": (4, 4), "head": (4, 2)}
    params = draw(seed, shapes, dtype)
    stream = [("embed", 1, "produced"), ("head", 0, "consumed")]
    stream += [("square", 0, "consumed"), ("square", 1, "produced")]
    groups = [stream]
    for i in range(2):
        stream += [(f"blocks/{i}/scale", 0, "elementwise")]
        stream += [(f"blocks/{i}/up", 0, "consumed"), (f"blocks/{i}/down", 1, "produced")]
        groups.append([(f"blocks/{i}/up", 1, "produced"), (f"blocks/{i}/down", 0, "consumed")])
    reductions = {0: ("mean", "variance")} if normed else None
    return params, Groups.from_sites(params, groups, reductions=reductions)


HEADS, WIDTH = 2, 3


def attention(params, x, heads=HEADS, width=WIDTH):
    """Queries, keys and values fused in one kernel `[features, 3 * heads * width]`."""
    q, k, v = jnp.moveaxis((x @ params["qkv"]).reshape(*x.shape[:2], 3, heads, width), 2, 0)
    scores = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k), -1)
    h = jnp.einsum("bhij,bjhd->bihd", scores, v)
    return h.reshape(*x.shape[:2], heads * width) @ params["out"]


def attention_params(seed=0, dtype=np.float64):
    params = draw(seed, {"qkv": (4, 3 * HEADS * WIDTH), "out": (HEADS * WIDTH, 4)}, dtype)
    first = 2 * HEADS * WIDTH
    value = [
        Site("qkv", 1, start=first + h * WIDTH, size=WIDTH, role="produced") for h in range(HEADS)
    ]
    value += [Site("out", 0, outer=HEADS, size=WIDTH, role="consumed")]
    heads = [
        Site("qkv", 1, outer=3, size=HEADS, inner=WIDTH, role="produced"),
        Site("out", 0, size=HEADS, inner=WIDTH, role="consumed"),
    ]
    return params, Groups.from_sites(params, [heads, value], per={1: (0,)})
