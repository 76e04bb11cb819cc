"""The groups of a plain feed-forward net, from the order of its layers."""

from collections.abc import Mapping, Sequence

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.symmetry.types import Groups, Site
from wslax.symmetry.validate import shapes_of
from wslax.typing import Params


def _leaves(shapes: dict[str, tuple[int, ...]], layer: str) -> list[str]:
    """The leaves of a layer, in any collection, kernel first."""
    found = [name for name in shapes if f"/{layer}/" in f"/{name}" and shapes[name]]
    if not found:
        owners = dict.fromkeys(name.rpartition("/")[0] for name in shapes)
        raise WeightSpaceError(f"no leaf belongs to layer {layer!r}.{did_you_mean(layer, owners)}")
    return sorted(found, key=lambda name: -len(shapes[name]))


def _consumed(name: str, shape: tuple[int, ...], size: int) -> Site:
    """The input axis of a kernel; a flatten before it leaves the channels minor."""
    if shape[-2] % size:
        raise WeightSpaceError(
            f"{name}: takes {shape[-2]} inputs, no multiple of the {size} units of the layer "
            "before it; check the order of layers, or write the sites with Groups.from_sites"
        )
    return Site(name, len(shape) - 2, outer=shape[-2] // size, size=size, role="consumed")


def feed_forward(
    params: Params,
    layers: Sequence[str],
    *,
    reductions: Mapping[int, tuple[str, ...]] | None = None,
) -> Groups:
    """The hidden dimensions of a chain of dense and convolution layers, with norms between them.

    A layer's leaf of two or more axes is its kernel, stored `[..., inputs, outputs]` as Flax does;
    its outputs are one group, produced there, elementwise in the vectors (bias, scale, running
    statistics) of this layer and of the layers without kernel after it, and consumed by the next
    kernel, also through a flatten of `[..., channels]`. The first layer's inputs and the last
    kernel's outputs are no groups.

    Args:
      params: the parameters, or their `ShapeDtypeStruct`s; statistics may be in the tree.
      layers: names of the layers in the order of the forward pass; `"conv_0"` stands for
        the leaves `conv_0/...` and `params/conv_0/...`.
      reductions: group id to `Group.reductions`. The leaves cannot tell it: a LayerNorm or
        GroupNorm over the units of a group is `("mean", "variance")`, an RMSNorm `("mean",)`, a
        BatchNorm (statistics over examples) none.

    Returns:
      The groups, numbered in the order of the layers.

    Raises:
      WeightSpaceError: if a layer has no leaves or several kernels, or sizes do not meet.

    Example:
        >>> import numpy as np
        >>> params = {"hidden": {"kernel": np.zeros((3, 8)), "bias": np.zeros(8)},
        ...           "out": {"kernel": np.zeros((8, 2)), "bias": np.zeros(2)}}
        >>> print(feed_forward(params, ["hidden", "out"]).table())
         id   size  free  sites
          0      8  yes   hidden/kernel[1] produced
                          hidden/bias[0] elementwise
                          out/kernel[0] consumed
    """
    shapes = shapes_of(params)
    groups: list[list[Site]] = []
    for layer in layers:
        kernel, *rest = _leaves(shapes, layer)
        vectors = rest if len(shapes[kernel]) > 1 else [kernel, *rest]
        if vectors is rest:
            if groups:
                groups[-1].append(_consumed(kernel, shapes[kernel], groups[-1][0].size))
            size, axis = shapes[kernel][-1], len(shapes[kernel]) - 1
            groups.append([Site(kernel, axis, size=size, role="produced")])
        if not groups:
            raise WeightSpaceError(f"{kernel}: the first layer, {layer!r}, has no kernel")
        for name in vectors:
            if shapes[name] != (groups[-1][0].size,):
                raise WeightSpaceError(
                    f"{name}: expected shape [{groups[-1][0].size}], got {list(shapes[name])}; "
                    "write the sites with Groups.from_sites"
                )
            groups[-1].append(Site(name, 0, size=groups[-1][0].size, role="elementwise"))
    return Groups.from_sites(params, groups[:-1], reductions=reductions)
