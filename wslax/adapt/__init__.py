"""Adapters: a fine-tuned model as a small change of its base; heads that grew."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.adapt.extraction import Extracted as Extracted
    from wslax.adapt.extraction import Extraction as Extraction
    from wslax.adapt.extraction import extract as extract
    from wslax.adapt.factors import factorise as factorise
    from wslax.adapt.heads import weight_align as weight_align
    from wslax.adapt.joined import joined as joined
    from wslax.adapt.low_rank import lora as lora
    from wslax.adapt.peft.reading import Peft as Peft
    from wslax.adapt.peft.reading import read_peft as read_peft
    from wslax.adapt.peft.writing import write_peft as write_peft
    from wslax.adapter import Adapter as Adapter
    from wslax.adapter import fused as fused

__getattr__, __all__ = attach(
    __name__,
    {
        "Adapter": "wslax.adapter",
        "Peft": "wslax.adapt.peft.reading",
        "Extracted": "wslax.adapt.extraction",
        "Extraction": "wslax.adapt.extraction",
        "extract": "wslax.adapt.extraction",
        "factorise": "wslax.adapt.factors",
        "fused": "wslax.adapter",
        "joined": "wslax.adapt.joined",
        "lora": "wslax.adapt.low_rank",
        "read_peft": "wslax.adapt.peft.reading",
        "weight_align": "wslax.adapt.heads",
        "write_peft": "wslax.adapt.peft.writing",
    },
)
