"""Names of leaves, selection by glob, and maps that name the leaf that does not fit.

A leaf's *canonical name* is the path of its keys joined by `/`: `"encoder/dense/kernel"`. It is the
same for a dict, a NamedTuple, a dataclass, Flax linen variables, an nnx state and an Equinox module
that hold the same fields, and equals the stored name of a flat checkpoint dict.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from wslax.errors import WeightSpaceError
from wslax.globs import matches, pick
from wslax.typing import Mask, Params, Where


def _part(key: Any) -> str:
    match key:
        case DictKey(key=part) | FlattenedIndexKey(key=part):
            return str(part)
        case GetAttrKey(name=part):
            return part
        case SequenceKey(idx=part):
            return str(part)
        case _:
            return str(key)


def _is_nnx_variable(node: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, nnx.Variable)


def leaf_names(tree: Params) -> tuple[str, ...]:
    """The canonical name of every leaf, in the order of `jax.tree.leaves`.

    Args:
      tree: any pytree. nnx variables count as the array they hold. A tree that is one leaf has the
        name `""`.

    Returns:
      One name a leaf.

    Raises:
      WeightSpaceError: if two leaves get the same name (`{"a": {"b": x}, "a/b": y}`).

    Example:
        >>> leaf_names({"dense": {"kernel": 1, "bias": 2}, "blocks": [3]})
        ('blocks/0', 'dense/bias', 'dense/kernel')
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_nnx_variable)
    # A variable that holds None is no leaf.
    held = [path for path, x in paths if not _is_nnx_variable(x) or jax.tree.leaves(x)]
    names = tuple("/".join(map(_part, path)) for path in held)
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise WeightSpaceError(f"two leaves are both called {twice!r}; rename one of the keys")
    return names


def named_leaves(tree: Params) -> dict[str, Any]:
    """Canonical name to leaf, in tree order.

    Example:
        >>> named_leaves({"w": 1, "b": [2]})
        {'b/0': 2, 'w': 1}
    """
    return dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))


def picked(tree: Params, where: Where = None, mask: Mask | None = None) -> Params:
    """A tree of Python bools: which leaves `where` picks, or a whole-leaf `mask` allows.

    Args:
      tree: the parameters.
      where: glob or globs over leaf names.
      mask: a tree of the same structure whose leaves are Python bools; not together with `where`.

    Returns:
      A tree of bools.

    Raises:
      WeightSpaceError: if both are given, a glob picks nothing, or the structures differ.

    Example:
        >>> picked({"kernel": 1.0, "bias": 2.0}, where="kernel")
        {'bias': False, 'kernel': True}
    """
    if mask is None:
        return jax.tree.unflatten(jax.tree.structure(tree), pick(leaf_names(tree), where))
    if where is not None:
        raise WeightSpaceError("give either where= (globs) or mask= (a tree of bools), not both")
    check_structure(mask, tree, "mask", "params")
    return mask


class ByLeaf(NamedTuple):
    """A hyper-parameter that depends on the leaf; made by `by_leaf`."""

    rules: tuple[tuple[str, Any], ...]


def by_leaf(rules: dict[str, Any]) -> ByLeaf:
    """A hyper-parameter by leaf name: the first glob that matches a leaf gives its value.

    Args:
      rules: glob to value, most specific first; `"*"` last is the default.

    Returns:
      A value that functions of wslax take in place of a number.

    Example:
        >>> import wslax as ws
        >>> density = ws.by_leaf({"*/embedding": 1.0, "*": 0.2})
    """
    return ByLeaf(tuple(rules.items()))


def resolve(value: Any, names: Sequence[str], what: str = "value") -> tuple[Any, ...]:
    """The value for each leaf name of a plain hyper-parameter or a `by_leaf` one.

    Args:
      value: anything, the same for all leaves, or `by_leaf(...)`.
      names: leaf names.
      what: the hyper-parameter's name, for the error.

    Returns:
      One value a name.

    Raises:
      WeightSpaceError: if a glob matches no leaf, or a leaf no glob.

    Example:
        >>> resolve(by_leaf({"a/*": 1, "*": 2}), ["a/w", "b/w"])
        (1, 2)
    """
    if not isinstance(value, ByLeaf):
        return (value,) * len(names)
    for glob, _ in value.rules:
        pick(names, glob)
    found = []
    for name in names:
        hits = [v for glob, v in value.rules if matches(name, glob)]
        if not hits:
            raise WeightSpaceError(f"{name}: {what} has no rule for it; end by_leaf with '*'")
        found.append(hits[0])
    return tuple(found)


def aval(leaf: Any) -> str:
    """Shape and dtype of a leaf, for sentences.

    Example:
        >>> import numpy as np
        >>> aval(np.zeros((2, 3), np.float32))
        'float32[2,3]'
    """
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def same_aval(stored: Any, leaf: Any) -> bool:
    """Whether what is stored has the shape and dtype of a leaf; a Python number has only a kind.

    Example:
        >>> import numpy as np
        >>> same_aval(np.zeros((), np.int32), 0), same_aval(np.zeros((), np.int32), np.int64(0))
        (True, False)
    """
    if hasattr(leaf, "dtype"):
        return aval(stored) == aval(leaf)
    return tuple(stored.shape) == () and stored.dtype.kind == np.asarray(leaf).dtype.kind


def check_structure(tree: Params, like: Params, this: str = "tree", that: str = "like") -> None:
    """Raise unless two trees have the same leaves; the error names what is missing or extra.

    Example:
        >>> check_structure({"w": 1}, {"b": 1}, "ours", "theirs")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: ours and theirs differ: ours lacks 'b', has extra 'w'
    """
    if jax.tree.structure(tree) == jax.tree.structure(like):
        return
    ours, theirs = leaf_names(tree), leaf_names(like)
    lacks = ", ".join(repr(n) for n in theirs if n not in ours)
    extra = ", ".join(repr(n) for n in ours if n not in theirs)
    parts = [f"{this} lacks {lacks}"] * bool(lacks) + [f"has extra {extra}"] * bool(extra)
    kinds = f"{jax.tree.structure(tree)} against {jax.tree.structure(like)}"
    raise WeightSpaceError(f"{this} and {that} differ: {', '.join(parts) or kinds}")


def check_like(tree: Params, like: Params, this: str = "tree", that: str = "like") -> None:
    """Raise unless two trees agree in structure and in every leaf's shape and dtype.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
      like: the same.
      this: what to call `tree` in the error.
      that: what to call `like`.

    Raises:
      WeightSpaceError: naming the first leaf that differs.

    Example:
        >>> import numpy as np
        >>> check_like({"w": np.zeros(2)}, {"w": np.zeros(3)}, "member 1", "member 0")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: w: member 1 is float64[2], member 0 is float64[3]
    """
    check_structure(tree, like, this, that)
    for (name, a), b in zip(named_leaves(tree).items(), jax.tree.leaves(like), strict=True):
        if aval(a) != aval(b):
            raise WeightSpaceError(f"{name}: {this} is {aval(a)}, {that} is {aval(b)}")


def map_named(fn: Callable[..., Any], tree: Params, *rest: Params) -> Params:
    """`jax.tree.map` whose function also gets the leaf's name.

    Args:
      fn: `fn(name, leaf, *leaves of rest)`.
      tree: gives the structure.
      *rest: trees of the same structure.

    Returns:
      A tree of what `fn` returned.

    Raises:
      WeightSpaceError: if a structure differs.

    Example:
        >>> map_named(lambda name, x: f"{name}={x}", {"w": 1})
        {'w': 'w=1'}
    """
    for i, other in enumerate(rest):
        check_structure(other, tree, f"tree {i + 1}", "tree 0")
    columns = [jax.tree.leaves(t) for t in (tree, *rest)]
    out = [fn(*row) for row in zip(leaf_names(tree), *columns, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(tree), out)


def map_like(fn: Callable[[Params], Params], state: Params, params: Params) -> Params:
    """Apply a params-to-params map to every subtree of `state` that has the structure of `params`.

    Optax's moments, EMA copies and accumulated gradients are such subtrees; counts and other leaves
    pass unchanged.

    Args:
      fn: the map.
      state: any pytree.
      params: the tree whose structure marks a match (arrays or `ShapeDtypeStruct`s).

    Returns:
      `state` with the matching subtrees mapped.

    Example:
        >>> map_like(lambda p: {"w": p["w"] * 2}, (3, {"w": 1.0}), {"w": 0.0})
        (3, {'w': 2.0})
    """
    structure = jax.tree.structure(params)

    def matches_params(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(
        lambda node: fn(node) if matches_params(node) else node, state, is_leaf=matches_params
    )


def is_float(leaf: Any) -> bool:
    """Whether a leaf holds floating-point weights (and not integers, bools or keys).

    Example:
        >>> import jax, numpy as np
        >>> is_float(np.float32(1)), is_float(np.arange(3)), is_float(jax.random.key(0))
        (True, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, np.floating)


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds JAX keys.

    Example:
        >>> import jax, numpy as np
        >>> is_key(jax.random.key(0)), is_key(np.uint32(1))
        (True, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def is_whole(leaf: Any) -> bool:
    """Whether this process can read all of a leaf (and it is not spread over several).

    Example:
        >>> import jax.numpy as jnp
        >>> is_whole(jnp.zeros(2))
        True
    """
    known = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    return known or leaf.is_fully_replicated


def wide(leaf: Any) -> np.dtype:
    """The dtype that arithmetic on a leaf of floats is in: float64 for float64, else float32.

    Example:
        >>> import jax.numpy as jnp
        >>> wide(jnp.zeros(2, jnp.bfloat16))
        dtype('float32')
    """
    return np.dtype(np.float64 if leaf.dtype == np.float64 else np.float32)


def cast_like(x: Any, leaf: Any) -> Any:
    """`x` in the dtype and weak type of `leaf`, so that loops over edits always type.

    JAX keys pass unchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> cast_like(jnp.float32(1), jnp.asarray(2.0)).weak_type
        True
    """
    if is_key(leaf):
        return x
    x = jax.lax.convert_element_type(x, leaf.dtype)
    if not getattr(leaf, "weak_type", False):
        return x
    # No public cast gives a weak type, but an update keeps that of its target.
    return jax.lax.full_like(leaf, 0, shape=x.shape).at[...].set(x)


def size(tree: Params) -> int:
    """How many numbers a tree holds.

    Example:
        >>> import numpy as np
        >>> size({"w": np.zeros((3, 4)), "b": np.zeros(4)})
        16
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Params) -> int:
    """How many bytes a tree's arrays (or `ShapeDtypeStruct`s) take.

    Example:
        >>> import numpy as np
        >>> nbytes({"w": np.zeros((3, 4), np.float32)})
        48
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
