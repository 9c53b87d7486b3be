"""Quantization: weights and activations in few bits, on which grid, by which rounding, and at what size."""
