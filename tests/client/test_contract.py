"""The table of the contract, requests as tensors, and the files that repeat the table."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from misotts_client import InvalidArgument, MisoError, Segment, SpeechRequest
from misotts_client.contract import INPUTS, OUTPUTS, SCALARS, Field, check_context_size, check_request, value
from misotts_client.errors import FieldError
from misotts_client.request import as_request
from misotts_client.tensors import read_request, write_request

ROOT = Path(__file__).resolve().parents[2]
POSITIONS, AUDIO_CODES = 2048, 2048


def test_the_contract_needs_no_grpc_and_neither_does_the_prompt_stage() -> None:
    modules = ["misotts_client." + name for name in ("contract", "errors", "request", "speech", "tensors")]
    for imported, heavy in ((modules, {"grpc", "tritonclient", "torch"}), (["misotts.prompt.builder"], {"grpc"})):
        code = f"import sys, {', '.join(imported)}; found = {heavy} & set(sys.modules); assert not found, found"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_a_request_has_a_field_for_every_scalar_input_and_the_context() -> None:
    assert {field.name for field in fields(SpeechRequest)} == {name.lower() for name in SCALARS} | {"context"}


VALUES = {"BYTES": st.text(max_size=20), "INT32": st.integers(-(2**31), 2**31 - 1), "FP32": st.floats(width=32)}
VALUES["INT64"] = st.integers(-(2**63), 2**63 - 1)
SEGMENTS = st.builds(
    Segment,
    VALUES["BYTES"],
    VALUES["INT32"],
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5).map(lambda samples: np.array(samples, np.float32)),
)


@given(
    st.fixed_dictionaries(
        {"text": VALUES["BYTES"], "context": st.lists(SEGMENTS, max_size=3)},
        optional={name.lower(): VALUES[INPUTS[name].datatype] for name in SCALARS[1:]},
    )
)
def test_tensors_make_the_same_request_again(values: dict[str, Any]) -> None:
    request = SpeechRequest(**values)
    again = read_request(write_request(request).get, POSITIONS)
    for name in SCALARS:
        np.testing.assert_equal(getattr(again, name.lower()), getattr(request, name.lower()))
    assert [(s.text, s.speaker, s.audio.tolist()) for s in again.context] == [
        (s.text, s.speaker, s.audio.tolist()) for s in request.context
    ]


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("speaker", [0, 99], [-1, 100]),
        ("temperature", [0.0, 2.0], [-0.01, 2.01, float("nan"), float("inf")]),
        ("top_k", [1, 2048], [0, 2049]),
        ("seed", [-(2**63), 2**63 - 1], [-(2**63) - 1, 2**63]),
        ("max_audio_ms", [80, 160_000], [0, 79, 160_001]),
        ("chunk_frames", [0, 1, 25], [-1, 26]),
        ("timeout_ms", [0, 1], [-1]),
        ("text", ["a", "é" * 4_000], ["", "   \n", "a" * 4_001, "a\ud800"]),
        ("session", ["a", "0_-Z" * 16], ["", "a/b", "é", "z" * 65]),
        ("voice", ["a", "0_-" + "z" * 61], ["", "A", "../ann", "z" * 65]),
    ],
)
def test_the_limits_of_every_field(field: str, inside: list[object], outside: list[object]) -> None:
    for setting in inside:
        check_request(as_request(SpeechRequest("Hello."), {field: setting}), AUDIO_CODES)
    for setting in outside:
        with pytest.raises(InvalidArgument) as caught:
            check_request(as_request(SpeechRequest("Hello."), {field: setting}), AUDIO_CODES)
        assert caught.value.field == field.upper()


def test_an_error_names_the_limits_and_the_value() -> None:
    limits = "must be -9223372036854775808 to 9223372036854775807, got 9223372036854775808"
    for request, words in ((SpeechRequest("a", seed=2**63), limits), (SpeechRequest("a\ud800"), "UTF-8.* point 1")):
        with pytest.raises(InvalidArgument, match=words):
            check_request(request, AUDIO_CODES)


@pytest.mark.parametrize("field", ["session_heard_ms", "session_end"])
def test_what_is_said_of_a_conversation_comes_with_its_name(field: str) -> None:
    check_request(as_request("a", {"session": "b", field: 1}), AUDIO_CODES)
    with pytest.raises(InvalidArgument) as caught:
        check_request(as_request("a", {field: 1}), AUDIO_CODES)
    assert caught.value.field == field.upper()
    check_request(SpeechRequest("", session="b", session_end=1), AUDIO_CODES)
    with pytest.raises(InvalidArgument, match="empty"):
        check_request(SpeechRequest("", session="b"), AUDIO_CODES)


def test_a_field_that_is_left_out_has_its_default() -> None:
    assert value(SpeechRequest("Hello."), "TOP_K") == INPUTS["TOP_K"].default
    assert value(SpeechRequest("Hello.", temperature=0.0), "TEMPERATURE") == 0


def test_the_size_of_a_context_is_checked_before_its_tensors_are_read() -> None:
    check_context_size(1024, 2048 * 1920, POSITIONS)
    largest = {"TEXT": np.array([b"Hello."], np.object_), "CONTEXT_AUDIO": np.zeros(2048 * 1920 + 1, np.float32)}
    many = {**largest, "CONTEXT_TEXT": np.array([b"\xff"] * 1025, np.object_)}
    for tensors, field, numbers in ((many, "CONTEXT_TEXT", "1024.*1025"), (largest, "CONTEXT_AUDIO", "3932160.*1")):
        with pytest.raises(InvalidArgument, match=numbers) as caught:
            read_request(tensors.get, POSITIONS)
        assert caught.value.field == field


# Triton's configurations and the documentation repeat the table.

CONFIGS = {
    path.parent.name: text_format.Parse(path.read_text(), ModelConfig())
    for path in (ROOT / "model_repository").glob("*/config.pbtxt")
}
TICKET = {"TICKET": ("TYPE_INT64", [1])}
"""The input that only the gateway sets."""
TYPES = {"BYTES": "TYPE_STRING"}
CODES = [kind.code for kind in (*FieldError.__subclasses__(), *MisoError.__subclasses__()) if kind is not FieldError]


def declared(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    """Types and dims of the inputs or outputs of a configuration."""
    names = ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    return {tensor.name: (names[tensor.data_type].name, list(tensor.dims)) for tensor in tensors}


def expected(table: Any) -> dict[str, tuple[str, list[int]]]:
    return {
        name: (TYPES.get(field.datatype, f"TYPE_{field.datatype}"), [1 if field.size == "1" else -1])
        for name, field in table.items()
    }


def test_tritons_configurations_declare_the_table() -> None:
    for name in ("misotts", "prompt"):
        assert declared(CONFIGS[name].input) == expected(INPUTS) | TICKET
        assert [tensor.name for tensor in CONFIGS[name].input if not tensor.optional] == ["TEXT"]
    for name in ("misotts", "watermark"):
        assert declared(CONFIGS[name].output) == expected(OUTPUTS)


def test_the_ensemble_connects_every_tensor_to_one_of_the_same_type() -> None:
    tensors = declared(CONFIGS["misotts"].input)
    for step in CONFIGS["misotts"].ensemble_scheduling.step:
        stage = CONFIGS[step.model_name]
        assert {key: tensors[step.input_map[key]] for key in step.input_map} == declared(stage.input)
        assert set(step.output_map) == set(declared(stage.output))
        tensors |= {step.output_map[name]: tensor for name, tensor in declared(stage.output).items()}
    prompt = CONFIGS["misotts"].ensemble_scheduling.step[0]
    assert dict(prompt.input_map) == {name: name for name in (*INPUTS, *TICKET)}


def row(name: str, field: Field, *cells: str) -> str:
    datatype = TYPES.get(field.datatype, field.datatype).removeprefix("TYPE_")
    return f"| {' | '.join([name, f'{datatype} [{field.size}]', *cells, field.meaning])} |"


def test_the_page_of_the_contract_has_the_tables() -> None:
    rows = [row(name, field, field.default_text, field.range) for name, field in INPUTS.items()]
    rows += [row(name, field) for name, field in OUTPUTS.items()]
    page = (ROOT / "docs" / "contract.md").read_text().splitlines()
    first = [(line, line.removeprefix("| ").split(" | ")[0]) for line in page if line.startswith("| ")]
    assert [line for line, name in first if name in {*INPUTS, *OUTPUTS}] == rows
    assert {name for _, name in first if name not in {*INPUTS, *OUTPUTS}} == {"input", "output", "code", *CODES}
