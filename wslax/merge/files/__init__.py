"""Merging checkpoints on disk: recipe, plan, stream."""
