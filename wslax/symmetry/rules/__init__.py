"""One rule a primitive: what an operation ties, passes on, reduces or freezes.

A rule is `rule(walk, eqn, *operands) -> values`. To teach `infer` another primitive pass
`rules={**RULES, "name": rule}`; an operation without a rule freezes all that it touches.
"""

from collections.abc import Mapping

from wslax.symmetry.rules import elementwise, indexing, layout, products, reductions
from wslax.symmetry.walk import Rule

RULES: Mapping[str, Rule] = {
    **elementwise.RULES,
    **layout.RULES,
    **products.RULES,
    **reductions.RULES,
    **indexing.RULES,
}
