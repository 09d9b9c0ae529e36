"""The depth decoder in ONNX Runtime, on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from misotts.config import ModelConfig
from misotts.engines.interface import Sampling
from misotts.engines.manifest import Manifest, depth_hash
from misotts.engines.table import DEPTHS, EngineError, depth_graph_folder
from misotts.model.weight_files import Weights

MIN_ROWS = 2
"""ONNX Runtime multiplies a single row with another routine, with other last bits. A batch of one is padded, so that
an utterance gets the same frames in any batch."""


class OnnxDepth:
    """Runs the graph that `python -m convert depth MODEL` writes."""

    def __init__(self, model: Path, weights: Weights, config: ModelConfig) -> None:
        """Load the engine of a model folder with these `weights`. It uses as many threads as torch.

        Raises:
            EngineError: onnxruntime is not installed, or the engine is missing or of other weights.
        """
        folder = depth_graph_folder(model, "float32")
        Manifest.load(folder).check(folder, weights=depth_hash(weights, config), dtype="float32")
        try:
            import onnxruntime
        except ImportError:
            raise EngineError(f"the depth engine needs {DEPTHS['onnx'].package}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait in a loop would take the cores from the other stages.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # ONNX Runtime would pack a weight once for each of the 31 products that read it.
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = onnxruntime.InferenceSession(
            folder.path / "graph.onnx", options, providers=["CPUExecutionProvider"]
        )

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Depth.forward`."""
        n = len(hidden)
        missing = max(MIN_ROWS - n, 0)
        inputs = {
            "hidden": F.pad(hidden, (0, 0, 0, missing)),
            "temperature": F.pad(sampling.temperature, (0, missing), value=1.0),
            "top_k": F.pad(sampling.top_k, (0, missing), value=1),
            "noise": F.pad(sampling.noise, (0, 0, 0, 0, 0, missing)),
        }
        codes, embedding = self._session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(codes[:n]), torch.from_numpy(embedding[:n])
