"""Optax states through edits."""
