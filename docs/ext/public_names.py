"""Warn, and so fail a build with -W, when a public name is missing from the API pages."""

import importlib
import types

from sphinx.util import logging

_log = logging.getLogger(__name__)


def _public(module):
    names = getattr(module, "__all__", None)
    if names is not None:
        return list(names)
    own = (types.FunctionType, type)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, own)
        and value.__module__ == module.__name__
    ]


def missing(namespaces, documented):
    """The public names, dotted, that are not in `documented`, under their name or their home's."""
    found = []
    for namespace in namespaces:
        module = importlib.import_module(namespace)
        for name in _public(module):
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                continue
            home = f"{getattr(value, '__module__', namespace)}.{getattr(value, '__name__', name)}"
            if not {f"{namespace}.{name}", home} & set(documented):
                found.append(f"{namespace}.{name}")
    return found


def _check(app, env):
    names = missing(app.config.public_namespaces, env.domaindata["py"]["objects"])
    if names:
        _log.warning("public names without an API entry: %s", ", ".join(names))


def setup(app):
    app.add_config_value("public_namespaces", [], "env")
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
