"""Equivariance: layers that commute with a group of transformations, and how to check that they do."""
