"""Merging: interpolation between networks, and matching of their hidden units."""
