"""The decode stage as Triton loads it; its code is `misotts.serve.stage.decode`."""

from misotts.serve.stage.decode import DecodeStage as TritonPythonModel

__all__ = ["TritonPythonModel"]
