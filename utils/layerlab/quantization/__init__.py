"""Quantization: few bits, well placed."""
