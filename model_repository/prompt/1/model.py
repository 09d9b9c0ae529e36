"""The prompt stage as Triton loads it; its code is `misotts.serve.stage.prompt`."""

from misotts.serve.stage.prompt import PromptStage as TritonPythonModel

__all__ = ["TritonPythonModel"]
