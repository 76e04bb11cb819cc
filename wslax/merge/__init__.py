"""Merging: one model from several, in memory and on disk."""
