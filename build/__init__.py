"""Engine builder: compiles what `convert` writes into TensorRT and TensorRT-LLM engines. See `python -m build --help`.

This folder holds source code, not build artefacts, and is not PyPA's `build`, the builder of wheels.
"""
