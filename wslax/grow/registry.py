"""All methods of growing in width by name; the registry drives the docs table and the tests."""

from wslax.grow.added import msg, zero
from wslax.grow.copies import fpi, hypercloning, net2wider
from wslax.grow.lemon import lemon
from wslax.grow.method import Method

METHODS: dict[str, Method] = {
    method.name: method for method in (net2wider, zero, hypercloning, lemon, fpi, msg)
}
