"""Tracing a model: its program as JAX writes it down, and walks over it."""
