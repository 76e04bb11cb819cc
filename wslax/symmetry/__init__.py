"""Symmetry: which axes of which leaves one hidden dimension runs through, and acting along it."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.symmetry.actions import permute as permute
    from wslax.symmetry.actions import take as take
    from wslax.symmetry.balancing import balance as balance
    from wslax.symmetry.chains import feed_forward as feed_forward
    from wslax.symmetry.find import locate as locate
    from wslax.symmetry.find import sizes as sizes
    from wslax.symmetry.inference import infer as infer
    from wslax.symmetry.layout import resize as resize
    from wslax.symmetry.normal import canonical as canonical
    from wslax.symmetry.normal import same_function as same_function
    from wslax.symmetry.proof import check as check
    from wslax.symmetry.proof import random_permutation as random_permutation
    from wslax.symmetry.rules import RULES as RULES
    from wslax.symmetry.scaling import rescale as rescale
    from wslax.symmetry.types import Group as Group
    from wslax.symmetry.types import Groups as Groups
    from wslax.symmetry.types import Site as Site

__getattr__, __all__ = attach(
    __name__,
    {name: "wslax.symmetry.actions" for name in ("permute", "take")}
    | {name: "wslax.symmetry.find" for name in ("locate", "sizes")}
    | {name: "wslax.symmetry.types" for name in ("Group", "Groups", "Site")}
    | {name: "wslax.symmetry.normal" for name in ("canonical", "same_function")}
    | {name: "wslax.symmetry.proof" for name in ("check", "random_permutation")}
    | {"infer": "wslax.symmetry.inference", "RULES": "wslax.symmetry.rules"}
    | {"balance": "wslax.symmetry.balancing", "rescale": "wslax.symmetry.scaling"}
    | {"feed_forward": "wslax.symmetry.chains", "resize": "wslax.symmetry.layout"},
)
