"""Only the ensemble accepts requests from callers."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from misotts.serve.local import RunningServer
from misotts_client.errors import InvalidArgument, error_from_text
from tests.support.raw import infer, text

GENERATE = dict(FRAMES=np.zeros((3, 33), np.int32), ORDER=text(b'{"max_frames": 1, "seed": 1}'))
HEADER = np.array([1, 0, 0, 1], np.int64)
DECODE = dict(HEADER=HEADER, CODES=np.ones((2, 32), np.int32), FINISH=text(b"eos"))
WATERMARK = dict(HEADER=HEADER, AUDIO=np.zeros(3840, np.float32), FINISH=text(b"eos"))


@pytest.mark.parametrize("secret", [{}, {"SECRET": text(b"guess")}], ids=["no secret", "wrong secret"])
@pytest.mark.parametrize(
    ("stage", "inputs"),
    [("generate", GENERATE), ("decode", DECODE), ("watermark", WATERMARK)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stage_refuses_requests_without_its_secret(
    server: RunningServer, stage: str, inputs: dict[str, np.ndarray], secret: dict[str, np.ndarray]
) -> None:
    response = infer(server.url, stage, **inputs, **secret)
    error = error_from_text(response.error_message)
    assert isinstance(error, InvalidArgument)
    assert f"{stage} is a stage of misotts" in error.message
    assert not response.infer_response.outputs


def test_prompt_refuses_requests_that_bypass_the_ensemble(server: RunningServer) -> None:
    response = infer(server.url, "prompt", TEXT=text(b"hello"))
    assert "prompt is a stage of misotts" in response.error_message
    assert "ENSEMBLE_INPUT" not in response.error_message


def test_a_wrong_guess_of_the_ensemble_input_does_not_reveal_its_name(server: RunningServer) -> None:
    response = infer(server.url, "prompt", TEXT=text(b"hello"), ENSEMBLE_INPUT=text(b"hello"))
    assert "unexpected inference input 'ENSEMBLE_INPUT'" in response.error_message


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig", "RepositoryIndex", "SystemSharedMemoryStatus"])
def test_triton_calls_that_would_reveal_secrets_are_restricted(server: RunningServer, call: str) -> None:
    messages = {
        "ModelMetadata": service_pb2.ModelMetadataRequest(name="prompt"),
        "ModelConfig": service_pb2.ModelConfigRequest(name="prompt"),
        "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
        "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    }
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="restricted"):
            getattr(stub, call)(messages[call], timeout=5)
