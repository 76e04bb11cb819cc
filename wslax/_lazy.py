"""Names that import their module on first use (PEP 562), so that `import wslax` costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """A module-level `__getattr__` and `__all__` for `package`, which then lists them in `dir`.

    Args:
      package: the `__name__` of the package.
      names: public name to the module that defines it; a module that ends in the name itself is
        the value (a sub-package).

    Returns:
      `(__getattr__, __all__)`.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(names[name])
        is_module = names[name] == f"{package}.{name}"
        return module if is_module else getattr(module, name)

    vars(sys.modules[package]).setdefault("__dir__", lambda: sorted(names))
    return getattr_, sorted(names)
