"""The watermark stage as Triton loads it; its code is `misotts.serve.stage.watermark`."""

from misotts.serve.stage.watermark import WatermarkStage as TritonPythonModel

__all__ = ["TritonPythonModel"]
