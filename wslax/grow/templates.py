"""MixtureGrowth: weights as linear mixes of templates, and growth by new mixes of trained ones."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.grow.halves import SUM, Blocks, join, plan
from wslax.population.members import as_key, row_spec
from wslax.symmetry import layout
from wslax.symmetry.along import check_mixable
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params

CHOICES = ("orthogonal", "copy", "zero", "random")


class Templates(NamedTuple):
    r"""The parameters of two nets of one architecture, and of the net that they grow into.

    Attributes:
      banks: the tree of the narrow net. Matrices are `[2, K, ...]`: two sets of K templates; other
        leaves `[2, ...]`: each net's own.
      coefficients: name of a matrix to `[members, K]`: its two nets, then the blocks of the wide
        net that lie off the diagonal. Keep weight decay away from them:
        `optax.adamw(rate, mask=Templates(banks=True, coefficients=False))`.
    """

    banks: Params
    coefficients: dict[str, Array]


class Mixture(NamedTuple):
    """Templates as pure functions.

    Attributes:
      init: `(key, init) -> Templates`; `init(key)` draws the narrow net's parameters.
      materialise: `(templates, member=None) -> params`: the narrow net number 0 or 1 (may be
        traced), or the wide net. Differentiable, so training goes on in templates and coefficients.
      grow: `(templates, choice="orthogonal", *, key, scale=1.0) -> templates`: new coefficients off
        the diagonal.
      groups: the groups of the wide net.
    """

    init: Callable[..., Templates]
    materialise: Callable[..., Params]
    grow: Callable[..., Templates]
    groups: Groups


def _orthogonal(key: Key, name: str, rows: int, columns: int) -> Array:
    """A uniformly drawn matrix with orthonormal columns, or rows where these are fewer."""
    words = random.bits(key, f"grow/templates/{name}", rows * columns, xp=jnp)
    tall = random.normal(words).reshape(max(rows, columns), min(rows, columns))
    q, r = jnp.linalg.qr(tall)
    q = q * jnp.sign(jnp.diagonal(r))[None]
    return q if rows >= columns else q.T


def _chosen(old: Array, choice: str, noise: Array, scale: Any) -> Array:
    """`[members, K]` with the members after the second by `choice`; `noise` is in [0, 1)."""
    new = list(old[:2])
    each = len(old) // 2 - 1  # blocks off the diagonal of each set, those of set 0 first
    for i in range(2, len(old)):
        if choice == "zero":
            new.append(jnp.zeros_like(old[i]))
        elif choice == "random":
            new.append(scale * noise[i])
        elif choice == "copy":
            new.append(old[int(i >= 2 + each)] + scale * noise[i] / jnp.linalg.norm(noise[i]))
        elif i == 2:
            new.append(old[i])
        else:
            new.append(scale * jnp.linalg.svd(jnp.stack(new))[2][-1])
    return jnp.stack(new).astype(old.dtype)


def _by_leaf(spec: Params, groups: Groups, found: dict[str, Blocks]) -> dict[str, Blocks]:
    """The blocks of every leaf of a tree, which may be one collection of the groups' model."""
    names, blocks = locate(spec, groups), {}
    for name, leaf in tree.named_leaves(spec).items():
        check_mixable(name, leaf)
        if name not in names and leaf.shape:
            blocks[name] = SUM
        elif names.get(name) in found:
            blocks[name] = found[names[name]]
        else:
            raise WeightSpaceError(
                f"{name}: no group that doubles runs through this leaf, nor does it add to what a "
                "head puts out, so the wide net has one where two nets have one each; make it a "
                "constant of the model"
            )
    return blocks


def mixture(groups: Groups, ids: Sequence[int] | None = None, *, templates: int = 2) -> Mixture:
    r"""Two narrow nets whose weights are mixes of templates, and the wide net of these templates.

    MixtureGrowth (Pham et al., arXiv:2311.04251). Each matrix of the narrow net (a leaf with an
    axis that is produced or consumed) owns two sets of K templates, and member m's weight is

    \[W_m = \sum_k a_{mk}\, T_{s(m), k}.\]

    Members 0 and 1 are the narrow nets, with a set each. In the wide net they are the blocks on
    the diagonal, and those off it are new mixes of templates of the set that the block's output
    half belongs to; written with outputs as rows

    \[\begin{pmatrix} W_0 & W_2 \\ W_3 & W_1 \end{pmatrix}.\]

    Where only the outputs double (the stem) the blocks are \(W_0\) over \(W_1\), where only the
    inputs do (the head) \(W_0\) beside \(W_1\): the logits of the halves **add up**, biases after
    the head too; halve the head for their mean. Biases, norms and running statistics of doubled
    axes stand behind each other: merge statistics by
    `materialise(Templates(ws.population.stack([of_0, of_1]), {}))`.

    All coefficients of a leaf are drawn together, as a matrix with orthonormal columns. Templates
    are drawn by the net's own `init`, times \(\sqrt{M / K}\) for M members where that is above 1,
    which gives mixed weights the variance that `init` means them to have (the authors' code draws
    them smaller and leaves the rest to BatchNorm).

    New coefficients by `grow`:

    - `"orthogonal"`: the first new member keeps its draw, each later one is the last right
      singular vector of all before it, times `scale`;
    - `"copy"`: those of the narrow net with the same set, plus a random direction of length
      `scale`;
    - `"zero"`: the wide net's logits are the sum of both narrow ones' (not where a norm runs over
      a doubled axis);
    - `"random"`: uniform in [0, `scale`).

    Args:
      groups: the groups of the narrow net.
      ids: which double; default all that are free.
      templates: K of each set; default 2, the authors'.

    Returns:
      `Mixture(init, materialise, grow, groups)`.

    Raises:
      WeightSpaceError: for an unknown or frozen group, an axis that would not fall into halves, or
        no group; from `init` and `materialise`, naming the leaf, if it is no float or in neither
        half; from `grow` for an unknown choice.

    Example:
        >>> import jax, wslax as ws
        >>> half = ws.nets.mlp(4, [8, 8], 3)
        >>> x = jax.numpy.ones((2, 4))
        >>> groups = ws.symmetry.infer(half.apply, half.init(jax.random.key(0)), x)
        >>> mix = ws.grow.mixture(groups)
        >>> params = mix.init(jax.random.key(0), half.init)
        >>> a, b = (half.apply(mix.materialise(params, member), x) for member in (0, 1))
        >>> wide = mix.materialise(mix.grow(params, "zero", key=1))
        >>> wide["hidden_1"]["kernel"].shape
        (16, 16)
        >>> bool(abs(half.apply(wide, x) - (a + b)).max() < 1e-5)
        True
    """
    ids = [group.id for group in groups.free] if ids is None else list(ids)
    if not ids or templates < 1:
        raise WeightSpaceError("expected at least one group to double and one template a set")
    found = plan(groups, ids)

    wide = layout.resize(groups, {id: 2 * groups.all[id].size for id in ids})

    def init(key: Key, init: Callable[[Any], Params]) -> Templates:
        drawn = jax.vmap(init)(jax.random.split(as_key(key), 2 * templates))
        mixed = {n: b for n, b in _by_leaf(row_spec(drawn), groups, found).items() if b.mixed}
        coefficients: dict[str, Array] = {}

        def bank(name: str, leaf: Array) -> Array:
            sets = leaf.reshape(2, templates, *leaf.shape[1:])
            if name not in mixed:
                return sets[:, 0]
            members, dtype = len(mixed[name].halves), tree.wide(leaf)
            coefficients[name] = _orthogonal(key, name, members, templates).astype(dtype)
            return tree.cast_like(sets.astype(dtype) * max(1, members / templates) ** 0.5, leaf)

        return Templates(tree.map_named(bank, drawn), coefficients)

    def materialise(params: Templates, member: Any = None) -> Params:
        banks, coefficients = params
        if isinstance(member, int) and member not in (0, 1):
            raise WeightSpaceError(f"member: expected 0, 1 or None for the wide net, got {member}")

        def block(name: str, bank: Array, member: Any, set: Any) -> Array:
            if name not in coefficients:
                return bank[set]
            mix = coefficients[name][member].astype(tree.wide(bank))
            return tree.cast_like(jnp.tensordot(mix, bank[set].astype(mix.dtype), 1), bank)

        if member is not None:
            return tree.map_named(lambda name, bank: block(name, bank, member, member), banks)
        axes = lambda name: 2 if name in coefficients else 1
        row = lambda name, x: jax.ShapeDtypeStruct(x.shape[axes(name) :], x.dtype)
        lie = _by_leaf(tree.map_named(row, banks), groups, found)

        def leaf(name: str, bank: Array) -> Array:
            return join(lie[name], lambda m: block(name, bank, m, lie[name].sets[m]))

        return tree.map_named(leaf, banks)

    def grow(
        params: Templates, choice: str = "orthogonal", *, key: Key, scale: Any = 1.0
    ) -> Templates:
        if choice not in CHOICES:
            raise WeightSpaceError(f"choice {choice!r} is unknown.{did_you_mean(choice, CHOICES)}")

        def new(name: str, old: Array) -> Array:
            words = random.bits(key, f"grow/templates/new/{name}", old.size, xp=jnp)
            return _chosen(old, choice, random.uniform(words).reshape(old.shape), scale)

        return params._replace(coefficients={n: new(n, a) for n, a in params.coefficients.items()})

    return Mixture(init, materialise, grow, wide)
