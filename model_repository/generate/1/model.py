"""The generate stage as Triton loads it; its code is `misotts.serve.stage.generate`."""

from misotts.serve.stage.generate import GenerateStage as TritonPythonModel

__all__ = ["TritonPythonModel"]
