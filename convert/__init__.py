"""Weights of a model folder → what engines are built from: `python -m convert --help`."""
