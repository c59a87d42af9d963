"""Weights of other libraries: read, convert and load them."""
