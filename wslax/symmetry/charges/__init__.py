"""Charges: by which power of a unit's factor each value of the program changes.

Let the weights of a unit be multiplied by a factor at each of its sites, to an unknown power. Then
every value of the program is multiplied, element by element, by the factor to some power: its
*charge*, a linear form in the unknowns. Each operation adds charges, keeps them, or demands that
some are equal or zero. What solves all demands is an exact symmetry.
"""
