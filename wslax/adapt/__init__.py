"""Adapters: a fine-tuned model as a small change of its base; heads that grew."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.adapt.extraction import Extracted as Extracted
    from wslax.adapt.extraction import Extraction as Extraction
    from wslax.adapt.extraction import extract as extract
    from wslax.adapt.factors import factorise as factorise
    from wslax.adapt.heads import weight_align as weight_align
    from wslax.adapt.low_rank import lora as lora
    from wslax.adapter import Adapter as Adapter
    from wslax.adapter import fused as fused

__getattr__, __all__ = attach(
    __name__,
    {
        "Adapter": "wslax.adapter",
        "Extracted": "wslax.adapt.extraction",
        "Extraction": "wslax.adapt.extraction",
        "extract": "wslax.adapt.extraction",
        "factorise": "wslax.adapt.factors",
        "fused": "wslax.adapter",
        "lora": "wslax.adapt.low_rank",
        "weight_align": "wslax.adapt.heads",
    },
)
