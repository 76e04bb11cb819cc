"""Small models of every kind that `infer` must understand, as `name -> (apply, params, inputs)`.

Each reads its widths from the parameters, so that it takes those of a wider or narrower model as
they are; what they cannot tell, the heads in a fused axis and a norm's epsilon, is a keyword.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

KEY = jr.key(0)


def shapes(**leaves):
    return {name: jnp.zeros(shape) for name, shape in leaves.items()}


def linen(module, *inputs, apply=None, **kwargs):
    keys = {"params": KEY, "dropout": KEY}
    avals = jax.eval_shape(lambda: module.init(keys, *inputs, **kwargs))
    variables = jax.tree.map(lambda aval: jnp.zeros(aval.shape, aval.dtype), avals)
    apply = apply or (lambda v, *xs: module.apply(v, *xs, **kwargs))
    return apply, variables, inputs


def read(module, name, default, axis=-1):
    """How many units a layer has in the parameters at hand, or by default."""
    found = module.variables.get("params", {})
    for part in name.split("/"):
        found = found.get(part, {})
    return jax.tree.leaves(found)[-1].shape[axis] if found else default


def dense(module, name, units):
    return nn.Dense(read(module, name, units), name=name)


def conv(module, name, units, *window, **options):
    return nn.Conv(read(module, name, units), *window, name=name, **options)


def mlp():
    def apply(p, x):
        return jax.nn.gelu(jax.nn.relu(x @ p["a"] + p["a_b"]) @ p["b"]) @ p["c"]

    return apply, shapes(a=(3, 8), a_b=(8,), b=(8, 6), c=(6, 2)), (jnp.ones((4, 3)),)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=True, name=name)

        x = nn.relu(norm("n0")(conv(self, "c0", 8, (3, 3))(x)))
        for i, (width, stride) in enumerate([(8, 1), (12, 2)]):
            y = nn.relu(norm(f"n{i}a")(conv(self, f"c{i}a", width, (3, 3), stride)(x)))
            y = norm(f"n{i}b")(conv(self, f"c{i}b", width, (3, 3))(y))
            if stride > 1:
                x = norm(f"n{i}s")(conv(self, f"c{i}s", width, (1, 1), stride)(x))
            x = nn.relu(x + y)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(3, name="out")(x.reshape(x.shape[0], -1))


def resnet():
    return linen(ResNet(), jnp.ones((2, 8, 8, 3)))


class Separable(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(self, "expand", 8, (1, 1))(x))
        depthwise = conv(self, "depthwise", 8, (3, 3), feature_group_count=x.shape[-1])
        x = nn.relu(depthwise(x))
        s = x.mean((1, 2))
        s = nn.sigmoid(dense(self, "excite", 8)(nn.relu(dense(self, "squeeze", 4)(s))))
        x = x * s[:, None, None]
        x = nn.max_pool(conv(self, "project", 5, (1, 1))(x), (2, 2), (2, 2))
        return nn.Dense(3, name="out")(x.mean((1, 2)))


def separable():
    return linen(Separable(), jnp.ones((2, 6, 6, 3)))


def grouped():
    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x @ p["a"],
            p["k"],
            (1, 1),
            "SAME",
            feature_group_count=p["a"].shape[1] // p["k"].shape[2],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y) @ p["out"]

    return apply, shapes(a=(2, 12), k=(3, 3, 4, 6), out=(6, 2)), (jnp.ones((2, 4, 4, 2)),)


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = conv(self, "stem", 4, (3, 3))(x)
        for i in range(3):
            y = nn.relu(nn.LayerNorm(name=f"n{i}")(x)) if i else nn.relu(x)
            x = jnp.concatenate([x, conv(self, f"c{i}", 3, (3, 3))(y)], -1)
        return nn.Dense(2, name="out")(x.mean((1, 2)))


def densenet():
    return linen(DenseNet(), jnp.ones((2, 5, 5, 3)))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        a = nn.relu(conv(self, "down0", 6, (3, 3))(x))
        b = nn.relu(conv(self, "down1", 8, (3, 3), (2, 2))(a))
        c = nn.relu(conv(self, "middle", 10, (3, 3), (2, 2))(b))
        c = jax.image.resize(c, b.shape[:3] + c.shape[-1:], "nearest")
        d = nn.relu(conv(self, "up1", 8, (3, 3))(jnp.concatenate([b, c], -1)))
        d = nn.ConvTranspose(read(self, "grow", 7), (2, 2), (2, 2), name="grow")(d)
        e = nn.relu(conv(self, "up0", 6, (3, 3))(jnp.concatenate([a, d], -1)))
        return nn.Conv(2, (1, 1), name="out")(e)


def unet():
    return linen(UNet(), jnp.ones((2, 8, 8, 3)))


def lstm():
    def apply(p, x):
        def step(carry, x):
            h, s = carry
            i, f, g, o = jnp.split(x @ p["w"] + h @ p["u"] + p["b"], 4, -1)
            s = jax.nn.sigmoid(f) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(s)
            return (h, s), h

        zero = jnp.zeros((x.shape[1], len(p["u"])))
        _, hs = jax.lax.scan(step, (zero, zero), x)
        return hs @ p["out"]

    return apply, shapes(w=(3, 32), u=(8, 32), b=(32,), out=(8, 2)), (jnp.ones((5, 4, 3)),)


class Recurrent(nn.Module):
    cell: type

    @nn.compact
    def __call__(self, x):
        cell = self.cell(read(self, "out", 6, axis=0))
        return nn.Dense(2, name="out")(nn.RNN(cell, name="rnn")(x))


def lstm_separate():
    return linen(Recurrent(nn.OptimizedLSTMCell), jnp.ones((2, 5, 3)))


def gru():
    return linen(Recurrent(nn.GRUCell), jnp.ones((2, 5, 3)))


def gru_fused():
    def apply(p, x):
        def step(h, x):
            a, b = x @ p["w"], h @ p["u"]
            (ra, za, na), (rb, zb, nb) = (jnp.split(v, 3, -1) for v in (a, b))
            r, z = jax.nn.sigmoid(ra + rb), jax.nn.sigmoid(za + zb)
            h = (1 - z) * jnp.tanh(na + r * nb) + z * h
            return h, h

        return jax.lax.scan(step, jnp.zeros((x.shape[1], len(p["u"]))), x)[1] @ p["out"]

    return apply, shapes(w=(3, 18), u=(6, 18), out=(6, 2)), (jnp.ones((5, 4, 3)),)


class Heads(nn.Module):
    """Flax's attention, but values may be wider than queries."""

    heads: int
    width: int
    value: int

    @nn.compact
    def __call__(self, x, y):
        def project(name, x, width):
            return nn.DenseGeneral((self.heads, width), name=name)(x)

        query, key = project("query", x, self.width), project("key", y, self.width)
        y = nn.dot_product_attention(query, key, project("value", y, self.value))
        return nn.DenseGeneral(x.shape[-1], (-2, -1), name="out")(y)


class Attention(nn.Module):
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x, y=None):
        heads, width = (read(self, "attention/query", n, a) for n, a in ((4, -2), (2, -1)))
        value = read(self, "attention/value", 2)
        attend = (
            nn.MultiHeadDotProductAttention(heads, qkv_features=heads * width, name="attention")
            if value == width
            else Heads(heads, width, value, name="attention")
        )
        h = nn.LayerNorm(self.eps, name="n0")(x)
        x = x + attend(h, h if y is None else y)
        h = nn.gelu(dense(self, "up", 20)(nn.LayerNorm(self.eps, name="n1")(x)))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = conv(self, "patch", 12, (2, 2), (2, 2))(x)
        width = x.shape[-1]
        x = x.reshape(x.shape[0], -1, width)
        token = self.param("token", nn.initializers.normal(), (1, 1, width))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("position", nn.initializers.normal(), (1, *x.shape[1:]))
        for i in range(2):
            x = Attention(name=f"block{i}")(x)
        return nn.Dense(3, name="out")(nn.LayerNorm(name="norm")(x)[:, 0])


def vit():
    return linen(ViT(), jnp.ones((2, 6, 6, 3)))


class EncoderDecoder(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x, y):
        x = nn.Embed(7, read(self, "source", 12), name="source")(x)
        y = nn.Embed(9, read(self, "target", 16), name="target")(y)
        for i in range(2):
            x = Attention(self.eps, name=f"encoder{i}")(x)
        for i in range(2):
            y = Attention(self.eps, name=f"decoder{i}")(y, x)
        return nn.Dense(9, name="out")(y)


def encoder_decoder(eps=1e-6):
    return linen(EncoderDecoder(eps), jnp.ones((2, 4), int), jnp.ones((2, 5), int))


def attention(q, k, v):
    scores = jnp.einsum("...thd,...shd->...hts", q, k) / q.shape[-1] ** 0.5
    mask = jnp.tril(jnp.ones((q.shape[-3], k.shape[-3]), bool))
    return jnp.einsum("...hts,...shd->...thd", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v)


def layer_norm(x, scale, bias, eps=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + eps) * scale + bias


def rms_norm(x, scale, eps=1e-6):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + eps) * scale


def gpt(heads=4, eps=1e-6):
    def thirds(z, value):
        """Queries, keys and values of `[..., heads, width]` on one axis, of one width or not."""
        if z.shape[-1] == 3 * value:
            return jnp.moveaxis(z.reshape(*z.shape[:2], 3, heads, value // heads), 2, 0)
        each = jnp.split(z, [(z.shape[-1] - value) // 2, z.shape[-1] - value], -1)
        return [a.reshape(*z.shape[:2], heads, -1) for a in each]

    def apply(p, tokens):
        x = p["embed"][tokens] + p["position"][: tokens.shape[1]]
        for block in p["blocks"]:
            h = layer_norm(x, block["s0"], block["b0"], eps)
            q, k, v = thirds(h @ block["qkv"] + block["qkv_b"], len(block["o"]))
            x = x + attention(q, k, v).reshape(*h.shape[:2], -1) @ block["o"]
            h = layer_norm(x, block["s1"], block["b1"], eps)
            x = x + jax.nn.gelu(h @ block["up"]) @ block["down"]
        return x @ p["embed"].T

    block = shapes(
        s0=(12,),
        b0=(12,),
        qkv=(12, 24),
        qkv_b=(24,),
        o=(8, 12),
        s1=(12,),
        b1=(12,),
        up=(12, 20),
        down=(20, 12),
    )
    params = {**shapes(embed=(11, 12), position=(6, 12)), "blocks": [block, block]}
    return apply, params, (jnp.ones((2, 5), int),)


def rotate(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 0.5 ** jnp.arange(half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def llama_block(x, p, eps):
    batch, time, _ = x.shape
    h = rms_norm(x, p["s0"], eps)
    q = rotate((h @ p["q"]).reshape(batch, time, -1, 6))
    k = rotate((h @ p["k"]).reshape(batch, time, -1, 6))
    v = (h @ p["v"]).reshape(*k.shape[:3], -1)
    per = q.shape[2] // k.shape[2]
    y = attention(q, jnp.repeat(k, per, 2), jnp.repeat(v, per, 2))
    x = x + y.reshape(batch, time, -1) @ p["o"]
    h = rms_norm(x, p["s1"], eps)
    return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]


LLAMA = dict(
    s0=(12,),
    q=(12, 24),
    k=(12, 12),
    v=(12, 12),
    o=(24, 12),
    s1=(12,),
    gate=(12, 20),
    up=(12, 20),
    down=(20, 12),
)


def llama(eps=1e-6):
    def apply(p, tokens):
        x = p["embed"][tokens]
        for block in p["blocks"]:
            x = llama_block(x, block, eps)
        return rms_norm(x, p["s"], eps) @ p["embed"].T

    blocks = [shapes(**LLAMA), shapes(**LLAMA)]
    return apply, {**shapes(embed=(11, 12), s=(12,)), "blocks": blocks}, (jnp.ones((2, 5), int),)


def scanned(eps=1e-6):
    """Blocks stacked under scan with remat."""

    def apply(p, tokens):
        x = p["embed"][tokens]
        block = jax.checkpoint(lambda x, b: (llama_block(x, b, eps), None))
        x, _ = jax.lax.scan(block, x, p["blocks"])
        return rms_norm(x, p["s"], eps) @ p["embed"].T

    blocks = {name: jnp.zeros((3, *shape)) for name, shape in LLAMA.items()}
    return apply, {**shapes(embed=(11, 12), s=(12,)), "blocks": blocks}, (jnp.ones((2, 5), int),)


def grouped_query_fused(keys=2, per=2):
    """One kernel for `keys * per` query heads, and as many key heads as value heads."""

    def apply(p, x):
        batch, time, _ = x.shape
        h = x @ p["in"]
        value = len(p["o"]) // per
        key = (p["qkv"].shape[1] - value) // (per + 1)
        each = jnp.split(h @ p["qkv"], [per * key, per * key + key], -1)
        heads = (keys * per, keys, keys)
        q, k, v = (a.reshape(batch, time, n, -1) for a, n in zip(each, heads, strict=True))
        y = attention(q, jnp.repeat(k, per, 2), jnp.repeat(v, per, 2))
        return (h + y.reshape(batch, time, -1) @ p["o"]) @ p["out"]

    params = shapes(**{"in": (3, 12)}, qkv=(12, 48), o=(24, 12), out=(12, 2))
    return apply, params, (jnp.ones((2, 5, 3)),)


def mixture():
    """Experts chosen by the two largest gates."""

    def apply(p, x):
        h = x @ p["in"]
        gates = jax.nn.softmax(h @ p["router"])
        values, index = jax.lax.top_k(gates, 2)
        weights = (jax.nn.one_hot(index, 4) * values[..., None]).sum(1)
        y = jnp.einsum("td,edf->tef", h, p["up"])
        y = jnp.einsum("tef,efd->ted", jax.nn.relu(y), p["down"])
        return (h + jnp.einsum("ted,te->td", y, weights)) @ p["out"]

    params = shapes(**{"in": (3, 6)}, router=(6, 4), up=(4, 6, 10), down=(4, 10, 6), out=(6, 2))
    return apply, params, (jnp.ones((7, 3)),)


def soft_mixture():
    """Experts weighted by all gates: they may change places."""

    def apply(p, x):
        h = x @ p["in"]
        y = jnp.einsum("td,edf->tef", h, p["up"])
        y = jnp.einsum("tef,efd->ted", jax.nn.relu(y), p["down"])
        return jnp.einsum("ted,te->td", y, jax.nn.softmax(h @ p["router"])) @ p["out"]

    params = shapes(**{"in": (3, 6)}, router=(6, 4), up=(4, 6, 10), down=(4, 10, 6), out=(6, 2))
    return apply, params, (jnp.ones((7, 3)),)


def graph():
    def apply(p, x, senders, receivers):
        for layer in ("a", "b"):
            message = jax.nn.relu(x[senders] @ p[f"{layer}_m"])
            gathered = jax.ops.segment_sum(message, receivers, x.shape[0])
            x = jax.nn.relu(x @ p[f"{layer}_s"] + gathered)
        return x.mean(0) @ p["out"]

    params = shapes(a_m=(3, 8), a_s=(3, 8), b_m=(8, 6), b_s=(8, 6), out=(6, 2))
    edges = jnp.array([0, 1, 2, 3]), jnp.array([1, 2, 3, 0])
    return apply, params, (jnp.ones((4, 3)), *edges)


def siamese():
    def apply(p, x, y):
        a, b = (jax.nn.relu(v @ p["a"]) @ p["b"] for v in (x, y))
        return jnp.abs(a - b) @ p["out"]

    return apply, shapes(a=(3, 8), b=(8, 6), out=(6, 1)), (jnp.ones((4, 3)), jnp.ones((4, 3)))


def mamba():
    def apply(p, x):
        h = x @ p["in"]
        (width, states), rank = p["A"].shape, len(p["delta"])
        u, gate = jnp.split(h @ p["wide"], 2, -1)
        u = jax.nn.silu(
            jax.lax.conv_general_dilated(
                u,
                p["conv"],
                (1,),
                [(2, 0)],
                feature_group_count=width,
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
        )
        b, c, low = jnp.split(u @ p["bc"], [states, p["bc"].shape[1] - rank], -1)
        delta = jax.nn.softplus(low @ p["delta"])

        def step(s, t):
            u, delta, b, c = t
            s = jnp.exp(-delta[..., None] * jnp.exp(p["A"])) * s
            s = s + (delta * u)[..., None] * b[:, None]
            return s, jnp.einsum("bin,bn->bi", s, c)

        inputs = jax.tree.map(lambda v: v.swapaxes(0, 1), (u, delta, b, c))
        _, y = jax.lax.scan(step, jnp.zeros((x.shape[0], width, states)), inputs)
        y = (y.swapaxes(0, 1) + u * p["D"]) * jax.nn.silu(gate)
        return (h + y @ p["o"]) @ p["out"]

    params = shapes(
        **{"in": (3, 6)},
        wide=(6, 20),
        conv=(3, 1, 10),
        bc=(10, 11),
        delta=(3, 10),
        A=(10, 4),
        D=(10,),
        o=(10, 6),
        out=(6, 2),
    )
    return apply, params, (jnp.ones((2, 5, 3)),)


class Dropped(nn.Module):
    training: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="hidden")(x))
        x = nn.Dropout(0.5, deterministic=not self.training)(x)
        return nn.Dense(2, name="out")(x)


def dropout():
    module = Dropped(True)
    apply = lambda v, x: module.apply(v, x, rngs={"dropout": jr.key(1)})
    return linen(module, jnp.ones((4, 3)), apply=apply)


ZOO = {
    make.__name__: make
    for make in (
        mlp,
        resnet,
        separable,
        grouped,
        densenet,
        unet,
        lstm,
        lstm_separate,
        gru,
        gru_fused,
        vit,
        encoder_decoder,
        gpt,
        llama,
        scanned,
        grouped_query_fused,
        mixture,
        soft_mixture,
        graph,
        siamese,
        mamba,
        dropout,
    )
}


def trap(change):
    """A hidden layer with something done to its units that depends on their order."""

    def make():
        def apply(p, x):
            return change(jax.nn.relu(x @ p["a"])) @ p["b"]

        width = jax.eval_shape(change, jax.ShapeDtypeStruct((4, 8), jnp.float32)).shape[-1]
        return apply, shapes(a=(3, 8), b=(width, 2)), (jnp.ones((4, 3)),)

    return make


TRAPS = {
    "cumsum": trap(lambda h: jnp.cumsum(h, -1)),
    "sort": trap(lambda h: jnp.sort(h, -1)),
    "roll": trap(lambda h: jnp.roll(h, 1, -1)),
    "flip": trap(lambda h: h[:, ::-1]),
    "stride": trap(lambda h: h[:, ::2]),
    "constant": trap(lambda h: h * np.linspace(1, 2, 8, dtype=np.float32)),
    "count": trap(lambda h: h + jnp.arange(8.0)),
    "top": trap(lambda h: jax.lax.top_k(h, 3)[0]),
    "argmax": trap(lambda h: jax.nn.one_hot(jnp.argmax(h, -1), 8)),
    "shift": trap(lambda h: h[:, 1:] - h[:, :-1]),
    "fold": trap(lambda h: h[:, :4] + h[:, 4:]),
    "flatten": trap(lambda h: h.reshape(8, 4)[:, ::-1].reshape(4, 8)),
    "take": trap(lambda h: h[:, jnp.array([0, 3, 3, 1])]),
    "fft": trap(lambda h: jnp.abs(jnp.fft.fft(h))),
    "cumulative_max": trap(lambda h: jax.lax.cummax(h, 1)),
    "window": trap(lambda h: jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 3), (1, 1), "SAME")),
    "outer": trap(lambda h: jnp.einsum("bi,bj->bij", h, h)[:, 0]),
    "triangle": trap(lambda h: h @ jnp.tril(jnp.ones((8, 8)))),
    "gram": trap(lambda h: jnp.einsum("bi,bj->bij", h, h).reshape(4, 64) ** 2),
    "diagonal": trap(lambda h: jnp.diagonal(h[:, :, None] * h[:, None, :], axis1=1, axis2=2)),
}
