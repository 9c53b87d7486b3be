"""The techniques of *Layer by Layer*: small, readable PyTorch, without plots and without notebooks.

Nothing happens at import: no download, no seed, no global state.
"""
