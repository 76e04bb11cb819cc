"""Random small nets: each block takes `h [4, n]` and may draw leaves by name."""

import jax
import jax.numpy as jnp
import numpy as np


class Leaves:
    """Hands out leaves: records shapes on the first run, reads `params` on the later ones."""

    def __init__(self, params=None):
        self.params, self.made, self.count = params, {}, 0

    def __call__(self, *shape):
        name = f"w{self.count}"
        self.count += 1
        if self.params is None:
            self.made[name] = jnp.ones(shape)
            return self.made[name]
        return self.params[name]


def dense(h, leaf, m=None):
    return h @ leaf(h.shape[-1], m or h.shape[-1])


def norm(h):
    h = h - h.mean(-1, keepdims=True)
    return h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-3)


def gated(h, leaf):
    a, b = jnp.split(dense(h, leaf, 12), 2, -1)
    return a * jax.nn.sigmoid(b)


def heads(h, leaf):
    z = dense(h, leaf, 12).reshape(4, 3, 4)
    return jnp.tanh(jnp.einsum("bhd,hde->bhe", z, leaf(3, 4, 2))).reshape(4, 6)


def attention(h, leaf):
    z = dense(h, leaf, 24).reshape(4, 3, 2, 4)
    q, k, v = z[:, 0], z[:, 1], z[:, 2]
    a = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k))
    return jnp.einsum("hts,shd->thd", a, v).reshape(4, 8)


def inner_split(h, leaf):
    z = dense(h, leaf, 12).reshape(4, 2, 3, 2)
    return (z[:, :, 0] * z[:, :, 1] + jnp.tanh(z[:, :, 2])).reshape(4, 4)


def scan(h, leaf):
    stack = leaf(2, h.shape[-1], 6), leaf(2, 6, h.shape[-1])
    return jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w[0]) @ w[1], None), h, stack)[0]


def unrolled(h, leaf):
    a, b = leaf(2, h.shape[-1], 6), leaf(2, 6, h.shape[-1])
    for i in range(2):
        h = h + jnp.tanh(h @ a[i]) @ b[i]
    return h


def sliced_weight(h, leaf):
    w = leaf(h.shape[-1], 8)
    return jnp.tanh(h @ w[:, :4]) * (h @ w[:, 4:])


def mixed(h, leaf):
    y = jnp.einsum("td,edf->tef", h, leaf(3, h.shape[-1], 4))
    y = jnp.einsum("tef,efd->ted", jnp.tanh(y), leaf(3, 4, 6))
    return jnp.einsum("ted,te->td", y, jax.nn.softmax(dense(h, leaf, 3)))


def loop(h, leaf):
    w = leaf(h.shape[-1], h.shape[-1])
    return jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ w) + h, h)


def branch(h, leaf):
    w = leaf(h.shape[-1])
    return jax.lax.cond(h.sum() > 0, lambda h: h * w, lambda h: jnp.sin(h) + w, h)


def twice(h, leaf):
    w = leaf(6, 6)
    return jnp.tanh(dense(h, leaf, 6) @ w) @ w.T


BLOCKS = {
    "dense4": lambda h, leaf: dense(h, leaf, 4),
    "dense6": lambda h, leaf: dense(h, leaf, 6),
    "dense8": lambda h, leaf: dense(h, leaf, 8),
    "bias": lambda h, leaf: h + leaf(h.shape[-1]),
    "scale": lambda h, leaf: jnp.tanh(h * leaf(h.shape[-1])),
    "relu": lambda h, leaf: jax.nn.relu(h),
    "norm": lambda h, leaf: norm(h),
    "softmax": lambda h, leaf: jax.nn.softmax(h),
    "residual": lambda h, leaf: h + jnp.tanh(dense(h, leaf)),
    "gated": gated,
    "concat": lambda h, leaf: jnp.concatenate([h, dense(h, leaf, 4)], -1),
    "heads": heads,
    "attention": attention,
    "inner_split": inner_split,
    "scan": scan,
    "unrolled": unrolled,
    "sliced_weight": sliced_weight,
    "mixed": mixed,
    "loop": loop,
    "branch": branch,
    "twice": twice,
    "checkpoint": lambda h, leaf: jax.checkpoint(jnp.tanh)(h),
    "mean": lambda h, leaf: h * h.mean(-1, keepdims=True),
    "outer": lambda h, leaf: jnp.einsum("bi,bj,ijk->bk", h, h, leaf(*h.shape[1:] * 2, 4)),
    "stack": lambda h, leaf: (jnp.stack([h, dense(h, leaf)], 1) * leaf(2, 1)).sum(1),
    "pairs": lambda h, leaf: h.reshape(4, -1, 2).max(-1) if h.shape[-1] > 4 else h,
    "halves": lambda h, leaf: h.reshape(4, 2, -1).sum(1) if h.shape[-1] > 4 else h,
    "swap": lambda h, leaf: jnp.concatenate([h[:, 2:], h[:, :2]], -1),
    "flip": lambda h, leaf: h + h[:, ::-1],
    "cumsum": lambda h, leaf: jnp.cumsum(h, -1),
    "roll": lambda h, leaf: h + jnp.roll(h, 1, -1),
    "constant": lambda h, leaf: h * np.linspace(1, 2, h.shape[-1], dtype=np.float32),
    "first": lambda h, leaf: h * h[:, :1],
    "tail": lambda h, leaf: h[:, 1:] * h[:, :-1] if h.shape[-1] > 4 else h,
    "pad": lambda h, leaf: jnp.pad(h, ((0, 0), (0, 2))),
    "take": lambda h, leaf: h[:, jnp.array([1, 0, 2, 2])],
    "transposed": lambda h, leaf: (h.T.reshape(-1, 2, 4) + 1).reshape(-1, 4).T,
    "interleaved": lambda h, leaf: h.reshape(4, -1, 2).swapaxes(1, 2).reshape(4, -1),
    "tile": lambda h, leaf: jnp.tile(h, 2) if h.shape[-1] < 9 else h,
    "repeat": lambda h, leaf: jnp.repeat(h, 2, -1) if h.shape[-1] < 9 else h,
    "batch": lambda h, leaf: jnp.tanh(h - h.mean(0)),
    "update": lambda h, leaf: h.at[:, 0].set(1.0),
}


def build(names):
    """`(apply, params)` of the blocks one after another, with a dense layer before and after."""

    def run(leaf, x):
        h = jnp.tanh(dense(x, leaf, 8))
        for name in names:
            h = BLOCKS[name](h, leaf)
        return dense(h, leaf, 2)

    first = Leaves()
    jax.eval_shape(lambda x: run(first, x), jnp.ones((4, 3)))
    made = {name: jnp.ones(leaf.shape) for name, leaf in first.made.items()}
    return lambda params, x: run(Leaves(params), x), made
