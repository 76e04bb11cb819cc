"""Merging: one model from several, in memory and on disk."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.merge.averaging import AverageState as AverageState
    from wslax.merge.averaging import LawaState as LawaState
    from wslax.merge.averaging import averaged as averaged
    from wslax.merge.averaging import ema as ema
    from wslax.merge.averaging import lawa as lawa
    from wslax.merge.averaging import swa as swa
    from wslax.merge.competition import pcb as pcb
    from wslax.merge.disk import checkpoints as checkpoints
    from wslax.merge.functions import dare_linear as dare_linear
    from wslax.merge.functions import dare_ties as dare_ties
    from wslax.merge.functions import linear as linear
    from wslax.merge.functions import passthrough as passthrough
    from wslax.merge.functions import slerp as slerp
    from wslax.merge.functions import task_arithmetic as task_arithmetic
    from wslax.merge.functions import ties as ties
    from wslax.merge.interference import calibrate as calibrate
    from wslax.merge.interference import wudi as wudi
    from wslax.merge.masks import Emr as Emr
    from wslax.merge.masks import consensus as consensus
    from wslax.merge.masks import emr as emr
    from wslax.merge.masks import emr_member as emr_member
    from wslax.merge.masks import magmax as magmax
    from wslax.merge.masks import tall_masks as tall_masks
    from wslax.merge.memory import run as run
    from wslax.merge.method import Gram as Gram
    from wslax.merge.method import Kth as Kth
    from wslax.merge.method import Leaf as Leaf
    from wslax.merge.method import Member as Member
    from wslax.merge.method import Method as Method
    from wslax.merge.method import Param as Param
    from wslax.merge.method import Total as Total
    from wslax.merge.registry import METHODS as METHODS
    from wslax.merge.soups import Soup as Soup
    from wslax.merge.soups import greedy_soup as greedy_soup
    from wslax.merge.soups import learned_soup as learned_soup
    from wslax.merge.soups import liti as liti
    from wslax.merge.soups import lm_cocktail as lm_cocktail
    from wslax.merge.soups import warp_slerp as warp_slerp
    from wslax.merge.statistics import fisher as fisher
    from wslax.merge.statistics import fisher_information as fisher_information
    from wslax.merge.statistics import regmean as regmean
    from wslax.merge.subspace import iso_c as iso_c
    from wslax.merge.subspace import iso_cts as iso_cts
    from wslax.merge.subspace import knots as knots
    from wslax.merge.subspace import tsv_m as tsv_m

_FUNCTIONS = (
    "dare_linear", "dare_ties", "linear", "passthrough", "slerp", "task_arithmetic", "ties",
)  # fmt: skip
_MASKS = ("Emr", "consensus", "emr", "emr_member", "magmax", "tall_masks")
_SOUPS = ("Soup", "greedy_soup", "learned_soup", "liti", "lm_cocktail", "warp_slerp")
_AVERAGING = ("AverageState", "LawaState", "averaged", "ema", "lawa", "swa")
_STATISTICS = ("fisher", "fisher_information", "regmean")
_CONTRACT = ("Gram", "Kth", "Leaf", "Member", "Method", "Param", "Total")

__getattr__, __all__ = attach(
    __name__,
    {name: "wslax.merge.functions" for name in _FUNCTIONS}
    | {name: "wslax.merge.method" for name in _CONTRACT}
    | {name: "wslax.merge.interference" for name in ("calibrate", "wudi")}
    | {name: "wslax.merge.masks" for name in _MASKS}
    | {name: "wslax.merge.soups" for name in _SOUPS}
    | {name: "wslax.merge.averaging" for name in _AVERAGING}
    | {name: "wslax.merge.statistics" for name in _STATISTICS}
    | {name: "wslax.merge.subspace" for name in ("iso_c", "iso_cts", "knots", "tsv_m")}
    | {
        "METHODS": "wslax.merge.registry",
        "pcb": "wslax.merge.competition",
        "checkpoints": "wslax.merge.disk",
        "run": "wslax.merge.memory",
    },
)
