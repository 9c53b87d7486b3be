"""Pruning: what can go from a trained network, from which layer, and what it costs."""
