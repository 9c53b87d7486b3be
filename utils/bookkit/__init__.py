"""The machinery of *Layer by Layer*: claims, figures, sliders, exercises, staging, the site.

It knows nothing of the techniques; any book of executed notebooks could use it.
"""
