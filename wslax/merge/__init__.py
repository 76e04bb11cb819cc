"""Merging: one model from several, in memory and on disk."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.merge.disk import checkpoints as checkpoints
    from wslax.merge.functions.averages import linear as linear
    from wslax.merge.functions.averages import passthrough as passthrough
    from wslax.merge.functions.dropped import dare_linear as dare_linear
    from wslax.merge.functions.dropped import dare_ties as dare_ties
    from wslax.merge.functions.dropped import della as della
    from wslax.merge.functions.dropped import della_linear as della_linear
    from wslax.merge.functions.overlap import ram as ram
    from wslax.merge.functions.overlap import ramplus_tl as ramplus_tl
    from wslax.merge.functions.overlap import sce as sce
    from wslax.merge.functions.pairs import arcee_fusion as arcee_fusion
    from wslax.merge.functions.pairs import nearswap as nearswap
    from wslax.merge.functions.spherical import karcher as karcher
    from wslax.merge.functions.spherical import model_stock as model_stock
    from wslax.merge.functions.spherical import multislerp as multislerp
    from wslax.merge.functions.spherical import nuslerp as nuslerp
    from wslax.merge.functions.spherical import slerp as slerp
    from wslax.merge.functions.task_vectors import task_arithmetic as task_arithmetic
    from wslax.merge.functions.trimmed import breadcrumbs as breadcrumbs
    from wslax.merge.functions.trimmed import breadcrumbs_ties as breadcrumbs_ties
    from wslax.merge.functions.trimmed import ties as ties
    from wslax.merge.memory import run as run
    from wslax.merge.method import Across as Across
    from wslax.merge.method import Each as Each
    from wslax.merge.method import Gram as Gram
    from wslax.merge.method import Kth as Kth
    from wslax.merge.method import Leaf as Leaf
    from wslax.merge.method import Member as Member
    from wslax.merge.method import Method as Method
    from wslax.merge.method import Param as Param
    from wslax.merge.method import Total as Total
    from wslax.merge.registry import METHODS as METHODS

_FUNCTIONS = {
    "averages": ("linear", "passthrough"),
    "dropped": ("dare_linear", "dare_ties", "della", "della_linear"),
    "overlap": ("ram", "ramplus_tl", "sce"),
    "pairs": ("arcee_fusion", "nearswap"),
    "spherical": ("karcher", "model_stock", "multislerp", "nuslerp", "slerp"),
    "task_vectors": ("task_arithmetic",),
    "trimmed": ("breadcrumbs", "breadcrumbs_ties", "ties"),
}
_CONTRACT = ("Across", "Each", "Gram", "Kth", "Leaf", "Member", "Method", "Param", "Total")

__getattr__, __all__ = attach(
    __name__,
    {name: f"wslax.merge.functions.{file}" for file, names in _FUNCTIONS.items() for name in names}
    | {name: "wslax.merge.method" for name in _CONTRACT}
    | {
        "METHODS": "wslax.merge.registry",
        "checkpoints": "wslax.merge.disk",
        "run": "wslax.merge.memory",
    },
)
