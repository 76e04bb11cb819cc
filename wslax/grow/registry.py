"""All methods of growing in width by name; the registry drives the docs table and the tests."""

from wslax.grow.method import Method
from wslax.grow.net2wider import net2wider

METHODS: dict[str, Method] = {method.name: method for method in (net2wider,)}
