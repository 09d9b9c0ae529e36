"""Measurements of the whole pipeline on a GPU, in one command: `make gpu-suite` (see docs/gpu-suite.md)."""
