"""Triton kernels, each with the function that launches it. `misotts.generate.engines.cuda.plain` has the same functions
in plain PyTorch, and says what they compute.

Run on the CPU in Triton's interpreter (tests/test_cuda_kernels.py) and compiled for compute capability 9.0
(tests/test_cuda_compile.py). They have never run on a GPU. Tile sizes are reasoned, not measured: docs/cuda.md.
"""
