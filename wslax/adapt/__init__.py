"""Adapters: a fine-tuned model as a small change of its base; heads that grew."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.adapt.factors import factorise as factorise
    from wslax.adapt.heads import weight_align as weight_align
    from wslax.adapt.lora import Extracted as Extracted
    from wslax.adapt.lora import Extraction as Extraction
    from wslax.adapt.lora import extract as extract

__getattr__, __all__ = attach(
    __name__,
    {
        "Extracted": "wslax.adapt.lora",
        "Extraction": "wslax.adapt.lora",
        "extract": "wslax.adapt.lora",
        "factorise": "wslax.adapt.factors",
        "weight_align": "wslax.adapt.heads",
    },
)
