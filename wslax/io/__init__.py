"""Files of weights: safetensors, Hugging Face folders, npz and Orbax. Nothing is ever unpickled."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.io import atomic as atomic
    from wslax.io import convert as convert
    from wslax.io import dequantise as dequantise
    from wslax.io import difference as difference
    from wslax.io import layout as layout
    from wslax.io import lora as lora
    from wslax.io.convert import read_map as read_map
    from wslax.io.convert import relayout as relayout
    from wslax.io.files import carry_files as carry_files
    from wslax.io.files import load as load
    from wslax.io.files import save as save
    from wslax.io.orbax import restore as restore
    from wslax.io.orbax import save_orbax as save_orbax
    from wslax.io.orbax import saving_orbax as saving_orbax
    from wslax.io.reader import Tensors as Tensors
    from wslax.io.reader import open_tensors as open_tensors
    from wslax.io.statistics import Statistics as Statistics
    from wslax.io.statistics import summarise as summarise
    from wslax.io.writer import TensorWriter as TensorWriter
    from wslax.io.writer import write_tensors as write_tensors

__getattr__, __all__ = attach(
    __name__,
    {
        "atomic": "wslax.io.atomic",
        "convert": "wslax.io.convert",
        "dequantise": "wslax.io.dequantise",
        "difference": "wslax.io.difference",
        "layout": "wslax.io.layout",
        "lora": "wslax.io.lora",
        "read_map": "wslax.io.convert",
        "relayout": "wslax.io.convert",
        "carry_files": "wslax.io.files",
        "load": "wslax.io.files",
        "save": "wslax.io.files",
        "restore": "wslax.io.orbax",
        "save_orbax": "wslax.io.orbax",
        "saving_orbax": "wslax.io.orbax",
        "Tensors": "wslax.io.reader",
        "open_tensors": "wslax.io.reader",
        "Statistics": "wslax.io.statistics",
        "summarise": "wslax.io.statistics",
        "TensorWriter": "wslax.io.writer",
        "write_tensors": "wslax.io.writer",
    },
)
