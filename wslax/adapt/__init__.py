"""Adapters: a fine-tuned model as a small change of its base; heads that grew."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.adapt.blocks import bone as bone
    from wslax.adapt.blocks import miss as miss
    from wslax.adapt.companding import compander as compander
    from wslax.adapt.extraction import Extracted as Extracted
    from wslax.adapt.extraction import Extraction as Extraction
    from wslax.adapt.extraction import extract as extract
    from wslax.adapt.factors import factorise as factorise
    from wslax.adapt.heads import weight_align as weight_align
    from wslax.adapt.leaves import biases as biases
    from wslax.adapt.leaves import norms as norms
    from wslax.adapt.leaves import whole as whole
    from wslax.adapt.low_rank import lora as lora
    from wslax.adapt.low_rank import pissa as pissa
    from wslax.adapt.low_rank import vera as vera
    from wslax.adapt.orthogonal import boft as boft
    from wslax.adapt.orthogonal import oft as oft
    from wslax.adapt.peft.reading import Peft as Peft
    from wslax.adapt.peft.reading import read_peft as read_peft
    from wslax.adapt.peft.writing import write_peft as write_peft
    from wslax.adapt.products import loha as loha
    from wslax.adapt.products import lokr as lokr
    from wslax.adapt.prunable import splopa as splopa
    from wslax.adapt.prunable import splora as splora
    from wslax.adapt.prunable import sppara as sppara
    from wslax.adapt.rates import lora_plus as lora_plus
    from wslax.adapt.scaling import dora as dora
    from wslax.adapt.scaling import ia3 as ia3
    from wslax.adapt.slicing import take as take
    from wslax.adapter import Adapter as Adapter
    from wslax.adapter import chain as chain
    from wslax.adapter import fused as fused

__getattr__, __all__ = attach(
    __name__,
    {name: "wslax.adapt.blocks" for name in ("bone", "miss")}
    | {name: "wslax.adapt.orthogonal" for name in ("boft", "oft")}
    | {name: "wslax.adapt.prunable" for name in ("splopa", "splora", "sppara")}
    | {name: "wslax.adapt.products" for name in ("loha", "lokr")}
    | {name: "wslax.adapt.peft.reading" for name in ("Peft", "read_peft")}
    | {"compander": "wslax.adapt.companding", "take": "wslax.adapt.slicing"}
    | {
        "Adapter": "wslax.adapter",
        "whole": "wslax.adapt.leaves",
        "biases": "wslax.adapt.leaves",
        "chain": "wslax.adapter",
        "dora": "wslax.adapt.scaling",
        "Extracted": "wslax.adapt.extraction",
        "Extraction": "wslax.adapt.extraction",
        "extract": "wslax.adapt.extraction",
        "factorise": "wslax.adapt.factors",
        "fused": "wslax.adapter",
        "ia3": "wslax.adapt.scaling",
        "lora": "wslax.adapt.low_rank",
        "lora_plus": "wslax.adapt.rates",
        "norms": "wslax.adapt.leaves",
        "pissa": "wslax.adapt.low_rank",
        "vera": "wslax.adapt.low_rank",
        "weight_align": "wslax.adapt.heads",
        "write_peft": "wslax.adapt.peft.writing",
    },
)
