"""Numerics that several families need: exact thresholds and low rank."""
