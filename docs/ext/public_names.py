"""Fail the build when a public name is missing from the API pages."""

import importlib
import types

from sphinx.errors import ExtensionError


def _public(module):
    names = getattr(module, "__all__", None)
    if names is not None:
        return list(names)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
    ]


def _check(app, env):
    documented = set(env.domaindata["py"]["objects"])
    missing = []
    for namespace in app.config.public_namespaces:
        module = importlib.import_module(namespace)
        for name in _public(module):
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                continue
            home = f"{getattr(value, '__module__', namespace)}.{getattr(value, '__name__', name)}"
            if not documented & {f"{namespace}.{name}", home}:
                missing.append(f"{namespace}.{name}")
    if missing:
        raise ExtensionError(f"public names without an API entry: {', '.join(missing)}")


def setup(app):
    app.add_config_value("public_namespaces", [], "env")
    app.connect("env-check-consistency", lambda app, env: _check(app, env))
    return {"parallel_read_safe": True}
