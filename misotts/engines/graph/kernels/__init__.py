"""Triton kernels, each with the function that launches it. `misotts.engines.graph.plain` has the same functions
in plain PyTorch, and says what they compute.

Run on the CPU in Triton's interpreter (tests/engines/graph/test_kernels.py) and compiled for compute capability 9.0
(tests/engines/graph/test_compile.py). They have never run on a GPU. Tile sizes are reasoned, not
measured: docs/graph-engine.md.
"""
