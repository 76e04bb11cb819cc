"""A net as a function of the coordinates of its weights: one set of numbers for all widths."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.generate.places import coordinates, extents, shapes_at, weight_axes
from wslax.globs import pick
from wslax.population.members import as_key
from wslax.symmetry.actions import take
from wslax.symmetry.find import locate
from wslax.symmetry.matrices import from_matrices
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params, Where

_RESIDUAL = 0.1  # what each residual block is first multiplied by
_SMALL = 0.1  # about how large biases and scales of norms begin


class Mlp(NamedTuple):
    """The network of one leaf; a kernel is `[in, out]`.

    Attributes:
      first: kernel and bias, from features of coordinates.
      blocks: kernels, biases and scales of the residual blocks, stacked.
      last: kernel and bias, to one weight of each place in the window.
    """

    first: dict[str, Array]
    blocks: dict[str, Array]
    last: dict[str, Array]


def _dense(key: Key, name: str, *shape: int) -> dict[str, Array]:
    """Normal kernels `[..., in, out]` of variance 2 / in, biases of zero."""
    words = random.bits(key, f"generate/{name}", int(np.prod(shape)), xp=jnp)
    kernel = random.normal(words).reshape(shape) * np.float32(np.sqrt(2 / shape[-2]))
    return {"kernel": kernel, "bias": jnp.zeros((*shape[:-2], shape[-1]), jnp.float32)}


def _first(key: Key, name: str, counts: tuple[int, int], frequencies: int, width: int) -> Any:
    """The layer of features, of which only those of a row or column that moves count at first."""
    moves = np.array([False, counts[1] > 1, counts[0] > 1, False, False, False])
    used = np.concatenate([moves, np.tile(np.repeat(moves, frequencies), 2)])
    layer = _dense(key, f"{name}/first", used.size, width)
    gain = np.sqrt(used.size / max(used.sum(), 1)) * used
    return {**layer, "kernel": layer["kernel"] * gain[:, None].astype(np.float32)}


def _last(key: Key, name: str, width: int, window: int, gain: float) -> Any:
    """The layer to weights; columns sum to zero, so that weights have no common sign."""
    layer = _dense(key, f"{name}/last", width, window)
    kernel = layer["kernel"] - layer["kernel"].mean(0, keepdims=True)
    return {**layer, "kernel": kernel * np.float32(gain)}


def init(
    key: Key,
    params: Params,
    groups: Groups,
    *,
    where: Where = None,
    width: int = 256,
    depth: int = 4,
    frequencies: int = 16,
) -> dict[str, Mlp]:
    r"""Coordinate networks, one a leaf, that give its weights at any width (NeuMeta).

    A network takes the coordinates \((l/L, i/C_{out}, j/C_{in}, L/N, C_{out}/N, C_{in}/N)\), N the
    largest width of the net, with sines and cosines of \(2^k \pi\) times them, through a layer,
    then residual blocks \(x + s\,\mathrm{relu}(Wx + b)\) with learned \(s\) (first 0.1), to the
    weights of the window there, divided by \(C_{in}\).

    Kernels drawn as usual would give all weights of a leaf about one sign, so that whole layers of
    ReLU units are dead before the first step. Here the net at full size begins about as nets do:
    weights with variance about 1 over the fan-in, biases and scales of norms about 0.1; other
    widths begin as its stretched picture. Fit `reconstruction` alone before the task's loss, whose
    first steps move all weights of a leaf together.

    Args:
      key: draws the networks.
      params: the net at full size, arrays or `ShapeDtypeStruct`s; smooth it first
        (`shortest_path`).
      groups: its groups.
      where: globs of the leaves to generate, all leaves of floats by default; the authors generate
        only the last block of a deep net.
      width: of the networks; 256 for the authors' MNIST, 512 for CIFAR.
      depth: layers before the last, the first and the residual ones; authors: 4 and 8.
      frequencies: k is below it; authors: 16 and 32.

    Returns:
      Leaf name to network, all of it to be trained by the gradient through `materialise`.

    Raises:
      WeightSpaceError: if the tree is not the groups' model, or `where` picks nothing or a leaf
        that is not of floats.

    References:
      Yang and Wang 2024, Neural Metamorphosis, arXiv:2410.11878.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.mlp(4, [8], 3)
        >>> params = net.init(jax.random.key(0))
        >>> groups = ws.symmetry.feed_forward(params, ["hidden_0", "out"])
        >>> networks = ws.generate.init(0, params, groups, width=16, depth=2, frequencies=4)
        >>> small = ws.generate.materialise(networks, params, groups, {0: 3})
        >>> net.apply(small, jax.numpy.ones((2, 4))).shape
        (2, 3)
    """
    if any(name != original for name, original in locate(params, groups).items()):
        raise WeightSpaceError(
            "params: the leaves have other names than in the groups; give the tree that the groups "
            "were made for"
        )
    shapes = shapes_at(params, groups, None)
    names = list(shapes)
    if where is not None:
        every = tree.leaf_names(params)
        names = [name for name, hit in zip(every, pick(every, where), strict=True) if hit]
    networks = {}
    for name in names:
        if name not in shapes:
            raise WeightSpaceError(f"{name}: only leaves of floats can be generated; see where=")
        axes = weight_axes(name, len(shapes[name]), groups)
        inputs, outputs = extents(shapes[name], axes)
        window = int(np.prod(shapes[name], dtype=int)) // (inputs * outputs)
        gain = np.sqrt(inputs / window) if axes.consumed else _SMALL
        blocks = _dense(key, f"{name}/blocks", depth - 1, width, width)
        scale = jnp.full(depth - 1, _RESIDUAL, jnp.float32)
        networks[name] = Mlp(
            _first(key, name, (inputs, outputs), frequencies, width),
            {**blocks, "scale": scale},
            _last(key, name, width, window, gain),
        )
    return networks


def _weights(network: Mlp, places: Array, norm: float) -> Array:
    """The weights of one leaf at coordinates `[C_in, C_out, 6]`, as `[window, C_in, C_out]`."""
    rows = places.reshape(-1, 6)
    extent = rows[:, 3:]
    x = jnp.concatenate([rows[:, :3] / extent, extent / norm], 1)
    frequencies = network.first["kernel"].shape[0] // 12
    factors = np.float32(np.pi) * 2 ** np.arange(frequencies, dtype=np.float32)
    angles = (x[:, :, None] * factors[None, None]).reshape(len(x), -1)
    x = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], 1)
    dense = lambda layer, x: x @ layer["kernel"] + layer["bias"][None]

    def block(x: Array, layer: Any) -> tuple[Array, None]:
        return x + layer["scale"] * jax.nn.relu(dense(layer, x)), None

    x, _ = jax.lax.scan(block, jax.nn.relu(dense(network.first, x)), network.blocks)
    return (dense(network.last, x) / extent[:, 2:]).T.reshape(-1, *places.shape[:2])


def _jittered(places: Array, key: Key, name: str, noise: float) -> Array:
    """Rows and columns moved by up to half an index to either side, times the noise."""
    shape = (*places.shape[:-1], 2)
    words = random.bits(key, f"generate/jitter/{name}", int(np.prod(shape)), xp=jnp)
    moved = noise * (random.uniform(words).reshape(shape) - np.float32(0.5))
    return jnp.concatenate([places[..., :1], places[..., 1:3] + moved, places[..., 3:]], -1)


def materialise(
    networks: Mapping[str, Mlp],
    params: Params,
    groups: Groups,
    sizes: Mapping[int, int] | None = None,
    *,
    key: Key | None = None,
    noise: float = 1.0,
) -> Params:
    """The net of a width, its weights read off the coordinate networks.

    Leaves of one shape go through their networks as one.

    Args:
      networks: from `init`.
      params: the net at full size; leaves without a network are its first units. Shapes alone do
        where every leaf has one.
      groups: its groups.
      sizes: group id to number of units; static. None for full size.
      key: None for the weights at the coordinates themselves; a JAX key or an integer seed moves
        rows and columns by uniform draws from half an index to either side, as in training.
      noise: times which they are moved; 1 in the authors' code.

    Returns:
      Parameters for the model's own apply; float32 inside, leaves keep their dtype.

    Raises:
      WeightSpaceError: if a network has no leaf, or a size does not fit.

    Example: see `init`.
    """
    shapes = shapes_at(params, groups, sizes)
    for name in networks:
        if name not in shapes:
            raise WeightSpaceError(f"{name}: there is a network for this leaf and params lack it")
    full = shapes_at(params, groups, None)
    axes = {name: weight_axes(name, len(shape), groups) for name, shape in shapes.items()}
    norm = float(max(max(extents(full[name], axes[name])) for name in full))
    places = coordinates(params, groups, sizes)
    alike: dict[Any, list[str]] = {}
    for name, network in networks.items():
        kind = (places[name].shape, jax.tree.map(jnp.shape, network))
        alike.setdefault(str(kind), []).append(name)
    found = {}
    for names in alike.values():
        at = [jnp.asarray(places[name]) for name in names]
        if key is not None:
            at = [_jittered(x, key, name, noise) for x, name in zip(at, names, strict=True)]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *(networks[name] for name in names))
        run = jax.vmap(functools.partial(_weights, norm=norm))
        for name, matrices in zip(names, run(stacked, jnp.stack(at)), strict=True):
            found[name] = from_matrices(matrices, axes[name], shapes[name])
    kept = {id: np.arange(size) for id, size in (sizes or {}).items()}
    if set(found) != set(tree.leaf_names(params)):
        params = take(params, groups, kept)
    return tree.map_named(
        lambda name, leaf: tree.cast_like(found[name], leaf) if name in found else leaf, params
    )


def average(
    networks: Mapping[str, Mlp],
    params: Params,
    groups: Groups,
    sizes: Mapping[int, int] | None = None,
    *,
    key: Key,
    count: int = 50,
    noise: float = 1.0,
) -> Params:
    """The mean of generated nets: the first at the coordinates themselves, the others beside them.

    Args:
      networks: from `init`.
      params: as for `materialise`.
      groups: the groups.
      sizes: group id to number of units; static.
      key: a JAX key or an integer seed of the moves.
      count: how many; the authors take 50 to 100. Static.
      noise: as for `materialise`.

    Returns:
      Parameters; the mean is in float32.

    Raises:
      WeightSpaceError: if `count` is below 1, and as `materialise` does.

    Example:
        >>> import jax, wslax as ws
        >>> params = ws.nets.mlp(4, [8], 3).init(jax.random.key(0))
        >>> groups = ws.symmetry.feed_forward(params, ["hidden_0", "out"])
        >>> networks = ws.generate.init(0, params, groups, width=16, depth=2, frequencies=4)
        >>> one = ws.generate.average(networks, params, groups, {0: 4}, key=1, count=3)
        >>> one["out"]["kernel"].shape
        (4, 3)
    """
    if count < 1:
        raise WeightSpaceError(f"count: expected at least 1, got {count}")
    made = functools.partial(materialise, networks, params, groups, sizes, noise=noise)
    first = made()
    wide = lambda leaf: leaf.astype(jnp.float32) if tree.is_float(leaf) else leaf

    def add(total: Params, key: Any) -> tuple[Params, None]:
        one = made(key=key)
        plus = lambda a, b: a + wide(b) if tree.is_float(b) else a
        return jax.tree.map(plus, total, one), None

    keys = jax.random.split(as_key(key), count - 1)
    total, _ = jax.lax.scan(add, jax.tree.map(wide, first), keys)
    mean = lambda a, like: tree.cast_like(a / count, like) if tree.is_float(like) else like
    return jax.tree.map(mean, total, first)
