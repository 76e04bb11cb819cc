"""Merging: one model from several, in memory and on disk."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.merge.adaptive import adamerging as adamerging
    from wslax.merge.adaptive import atlas as atlas
    from wslax.merge.adaptive import entropy as entropy
    from wslax.merge.averaging import AverageState as AverageState
    from wslax.merge.averaging import LawaState as LawaState
    from wslax.merge.averaging import averaged as averaged
    from wslax.merge.averaging import ema as ema
    from wslax.merge.averaging import lawa as lawa
    from wslax.merge.averaging import swa as swa
    from wslax.merge.coefficients import Learned as Learned
    from wslax.merge.comparison import Report as Report
    from wslax.merge.comparison import report as report
    from wslax.merge.competition import pcb as pcb
    from wslax.merge.files.disk import checkpoints as checkpoints
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
    from wslax.merge.interference import calibrate as calibrate
    from wslax.merge.interference import wudi as wudi
    from wslax.merge.masks import Emr as Emr
    from wslax.merge.masks import consensus as consensus
    from wslax.merge.masks import emr as emr
    from wslax.merge.masks import emr_member as emr_member
    from wslax.merge.masks import magmax as magmax
    from wslax.merge.masks import tall_masks as tall_masks
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
    from wslax.merge.propagated import regmean_plus_plus as regmean_plus_plus
    from wslax.merge.registry import METHODS as METHODS
    from wslax.merge.searching import Found as Found
    from wslax.merge.searching import search as search
    from wslax.merge.soups import Soup as Soup
    from wslax.merge.soups import greedy_soup as greedy_soup
    from wslax.merge.soups import learned_soup as learned_soup
    from wslax.merge.soups import liti as liti
    from wslax.merge.soups import lm_cocktail as lm_cocktail
    from wslax.merge.soups import warp_slerp as warp_slerp
    from wslax.merge.statistics import fisher as fisher
    from wslax.merge.statistics import regmean as regmean
    from wslax.merge.subspace import iso_c as iso_c
    from wslax.merge.subspace import iso_cts as iso_cts
    from wslax.merge.subspace import knots as knots
    from wslax.merge.subspace import tsv_m as tsv_m
    from wslax.numerics.fisher import fisher_information as fisher_information

_FUNCTIONS = {
    "averages": ("linear", "passthrough"),
    "dropped": ("dare_linear", "dare_ties", "della", "della_linear"),
    "overlap": ("ram", "ramplus_tl", "sce"),
    "pairs": ("arcee_fusion", "nearswap"),
    "spherical": ("karcher", "model_stock", "multislerp", "nuslerp", "slerp"),
    "task_vectors": ("task_arithmetic",),
    "trimmed": ("breadcrumbs", "breadcrumbs_ties", "ties"),
}
_MASKS = ("Emr", "consensus", "emr", "emr_member", "magmax", "tall_masks")
_SOUPS = ("Soup", "greedy_soup", "learned_soup", "liti", "lm_cocktail", "warp_slerp")
_AVERAGING = ("AverageState", "LawaState", "averaged", "ema", "lawa", "swa")
_STATISTICS = ("fisher", "regmean")
_CONTRACT = ("Across", "Each", "Gram", "Kth", "Leaf", "Member", "Method", "Param", "Total")

__getattr__, __all__ = attach(
    __name__,
    {name: f"wslax.merge.functions.{file}" for file, names in _FUNCTIONS.items() for name in names}
    | {name: "wslax.merge.method" for name in _CONTRACT}
    | {name: "wslax.merge.interference" for name in ("calibrate", "wudi")}
    | {name: "wslax.merge.masks" for name in _MASKS}
    | {name: "wslax.merge.soups" for name in _SOUPS}
    | {name: "wslax.merge.averaging" for name in _AVERAGING}
    | {name: "wslax.merge.statistics" for name in _STATISTICS}
    | {name: "wslax.merge.subspace" for name in ("iso_c", "iso_cts", "knots", "tsv_m")}
    | {name: "wslax.merge.adaptive" for name in ("adamerging", "atlas", "entropy")}
    | {name: "wslax.merge.searching" for name in ("Found", "search")}
    | {name: "wslax.merge.comparison" for name in ("Report", "report")}
    | {
        "Learned": "wslax.merge.coefficients",
        "fisher_information": "wslax.numerics.fisher",
        "METHODS": "wslax.merge.registry",
        "regmean_plus_plus": "wslax.merge.propagated",
        "pcb": "wslax.merge.competition",
        "checkpoints": "wslax.merge.files.disk",
        "run": "wslax.merge.memory",
    },
)
