r"""The methods as functions of a population.

All of them take a population (members along the leading axis of every leaf), work under `jit`,
`vmap` and, in their coefficients, `grad`, and return one member's tree with every leaf's shape,
dtype and weak type. Half types compute in float32. A numeric argument is a number, `ws.by_leaf` of
numbers, or where it says *per member* an array `[N]`; it may be traced, so a sweep compiles once.
Leaves that hold no floats, and leaves that `where=` does not pick, come from the base, or without
one from member 0 (integers and bools must then agree).

Formulas use \(x_i\) for member i, \(b\) for the base, \(d_i = x_i - b\), \(w_i\) for `coef`.
"""
