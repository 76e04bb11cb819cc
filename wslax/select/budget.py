"""How many weights of which leaves: numbers that fix the program."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.globs import hashable
from wslax.select.matrices import check_floats, of_leaves, ranked
from wslax.symmetry.matrices import MatrixAxes
from wslax.symmetry.types import Groups
from wslax.typing import Params, Where


class Choice(NamedTuple):
    """What is selected of a leaf; static.

    Attributes:
      count: how many weights of each matrix.
      axes: of a matrix, counted from the end; the others are a batch.
    """

    count: int
    axes: MatrixAxes


class Budget(NamedTuple):
    """A number of weights, said in one of three ways; each may be by leaf.

    Attributes:
      density: a share of the weights.
      count: a number.
      lora_rank: as many as LoRA of this rank trains for a matrix, `(m + n) * lora_rank`.
    """

    density: Any = None
    count: Any = None
    lora_rank: Any = None


def static_number(name: str, what: str, value: Any, kind: type) -> Any:
    """A hyper-parameter that fixes the program, as an int or a float; an error if it is none.

    Example:
        >>> static_number("w", "rank", 2.0, int)
        2
    """
    if isinstance(value, jax.core.Tracer):
        raise WeightSpaceError(
            f"{name}: {what} fixes the program, so it is a Python number and not traced; with "
            f"optax.inject_hyperparams name it in static_args"
        )
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "iuf" or not np.isfinite(number):
        raise WeightSpaceError(f"{name}: {what}: expected a number, got {value!r}")
    if kind is int and int(number) != number:
        raise WeightSpaceError(f"{name}: {what}: expected an integer, got {value!r}")
    return kind(number)


def at_least_one(name: str, what: str, value: Any) -> int:
    """A static integer of at least 1.

    Example:
        >>> at_least_one("w", "rank", 2)
        2
    """
    number = static_number(name, what, value, int)
    if number < 1:
        raise WeightSpaceError(f"{name}: {what}: expected at least 1, got {number}")
    return number


def share(name: str, density: Any) -> float:
    """A static number above 0 and at most 1.

    Example:
        >>> share("w", 0.5)
        0.5
    """
    number = static_number(name, "density", density, float)
    if not 0 < number <= 1:
        raise WeightSpaceError(f"{name}: density: expected above 0 and at most 1, got {number}")
    return number


def checked(budget: Budget) -> Budget:
    """The budget, if it is given in exactly one way.

    Example:
        >>> checked(Budget(density=0.5))
        Budget(density=0.5, count=None, lora_rank=None)
    """
    given = [name for name, value in budget._asdict().items() if value is not None]
    if len(given) != 1:
        raise WeightSpaceError(
            f"expected one of density=, count= and lora_rank=, got {' and '.join(given) or 'none'}"
        )
    return budget


def is_matrix(leaf: Any) -> bool:
    """Whether a leaf is floats `[..., m, n]`.

    Example:
        >>> is_matrix(np.zeros((2, 3))), is_matrix(np.zeros(3))
        (True, False)
    """
    return tree.is_float(leaf) and leaf.ndim >= 2 and 0 not in leaf.shape


def picked(params: Params, where: Where) -> list[bool]:
    """For each leaf whether it is selected from: what `where` picks, or all matrices of floats.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      where: globs.

    Raises:
      WeightSpaceError: if that is nothing, or a leaf without floats.

    Example:
        >>> picked({"b": np.zeros(3), "w": np.zeros((4, 5))}, None)
        [False, True]
    """
    named = tree.named_leaves(params)
    if where is None:
        found = [is_matrix(leaf) for leaf in named.values()]
    else:
        found = jax.tree.leaves(tree.picked(params, hashable(where)))
    for (name, leaf), mine in zip(named.items(), found, strict=True):
        if mine:
            check_floats(name, leaf)
    if not any(found):
        raise WeightSpaceError("there is no matrix of floats to select from")
    return found


def count_of(name: str, shape: tuple[int, ...], budget: Budget) -> int:
    """How many of the weights of one array of a shape are selected.

    Example:
        >>> count_of("w", (4, 5), Budget(density=0.25)), count_of("w", (9, 8), Budget(lora_rank=2))
        (5, 34)
    """
    size = math.prod(shape)
    if budget.density is not None:
        return max(1, round(share(name, budget.density) * size))
    if budget.count is not None:
        count = at_least_one(name, "count", budget.count)
        if count > size:
            raise WeightSpaceError(f"{name}: count: expected at most {size}, got {count}")
        return count
    if len(shape) != 2:
        raise WeightSpaceError(
            f"{name}: lora_rank is a budget of matrices [m, n], and {list(shape)} are ranked "
            "together; give density= or count="
        )
    return min(sum(shape) * at_least_one(name, "lora_rank", budget.lora_rank), size)


def by_leaf(budget: Budget, names: tuple[str, ...]) -> list[Budget]:
    """The budget of each leaf.

    Example:
        >>> by_leaf(Budget(count=2), ("a", "b"))[1].count
        2
    """
    columns = [tree.resolve(value, names, what) for what, value in budget._asdict().items()]
    return [Budget(*row) for row in zip(*columns, strict=True)]


def chosen(
    params: Params, budget: Budget, where: Where, groups: Groups | None = None
) -> list[Choice | None]:
    """What is selected of each leaf, None where nothing is.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      budget: how many weights of each matrix.
      where: as in `matrices.of_leaves`.
      groups: as in `matrices.of_leaves`.

    Raises:
      WeightSpaceError: for a budget that does not fit, or if nothing can be selected from.

    Example:
        >>> chosen({"b": np.zeros(3), "w": np.zeros((4, 5))}, Budget(density=0.25), None)[1].count
        5
    """
    return choices(params, budget, of_leaves(params, where, groups))


def choices(params: Params, budget: Budget, axes: list[MatrixAxes | None]) -> list[Choice | None]:
    """`chosen` of leaves whose axes are known.

    Example:
        >>> axes = [MatrixAxes((), (-1,)), None]
        >>> choices({"b": np.zeros(3), "w": np.zeros((4, 5))}, Budget(count=2), axes)[0].count
        2
    """
    named = tree.named_leaves(params)
    rows = zip(named.items(), axes, by_leaf(checked(budget), tuple(named)), strict=True)
    return [
        None if axes is None else Choice(count_of(name, ranked(leaf, axes), mine), axes)
        for (name, leaf), axes, mine in rows
    ]
