"""Triton kernels, each with the function that launches it. `misotts.engines.graph.plain` has and describes the same
functions in plain PyTorch.

Tests run the kernels in Triton's interpreter (tests/engines/graph/test_kernels.py) and compile them for compute
capability 9.0 (test_compile.py). They have never run on a GPU, and tile sizes are not measured: docs/graph-engine.md.
"""
