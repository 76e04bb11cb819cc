"""One rule a primitive: what it does to charges, and what it demands of them.

A rule is `rule(system, eqn, *forms) -> forms`. A primitive without one is `opaque`: it demands that
nothing it touches changes.
"""

from collections.abc import Mapping

from wslax.symmetry.charges.rules import elementwise, indexing, layout, products
from wslax.symmetry.charges.rules.elementwise import Rule

RULES: Mapping[str, Rule] = {
    **elementwise.RULES,
    **layout.RULES,
    **products.RULES,
    **indexing.RULES,
}
