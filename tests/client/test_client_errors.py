"""Errors and their text form."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misotts_client.errors import (
    EOS,
    LENGTH,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MisoError,
    NotFound,
    Unavailable,
    error_from_text,
    error_of,
    finish_of,
)

fields = st.none() | st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
messages = st.text(max_size=60)
# Without a field, a message that begins like one would be read as a field.
plain_messages = messages.filter(lambda text: not text[:1].isupper())
prefixes = st.sampled_from(
    ["", "in ensemble 'misotts', ", "[request id: <id_unknown>] ", "in ensemble 'misotts', [7] "]
)
texts = fields.flatmap(lambda field: st.tuples(st.just(field), messages if field else plain_messages))
plain_kinds = st.sampled_from([Unavailable, DeadlineExceeded, Cancelled, Internal])
errors: st.SearchStrategy[MisoError] = st.builds(lambda kind, text: kind(text), plain_kinds, messages)
errors |= st.builds(lambda kind, text: kind(*text), st.sampled_from([InvalidArgument, NotFound]), texts)


@given(errors, prefixes)
def test_the_text_of_an_error_makes_the_same_error_again(error: MisoError, prefix: str) -> None:
    again = error_from_text(prefix + str(error))
    assert type(again) is type(error)
    assert again.message == error.message
    assert getattr(again, "field", None) == getattr(error, "field", None)
    assert str(again) == str(error)


@given(st.text())
def test_any_text_becomes_an_error_that_keeps_its_words(text: str) -> None:
    error = error_from_text(text)
    assert error.message.strip() in text


@given(errors)
def test_errors_can_be_pickled(error: MisoError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))


@given(errors)
def test_a_finish_holds_its_error(error: MisoError) -> None:
    again = error_of(finish_of(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_a_finish_without_an_error() -> None:
    assert [error_of(finish) for finish in ("", EOS, LENGTH)] == [None, None, None]
    assert finish_of(Internal("decode failed")) == "error: INTERNAL: decode failed"


def test_the_text_of_an_error_is_code_field_message() -> None:
    assert str(InvalidArgument("TEMPERATURE", "must be 0 to 2, got 3.5")) == (
        "INVALID_ARGUMENT: TEMPERATURE: must be 0 to 2, got 3.5"
    )
    assert str(Cancelled("by the caller")) == "CANCELLED: by the caller"


@pytest.mark.parametrize(
    ("words", "retry"),
    [("full; try again in 3 s", 3.0), ("full; try again in 0.5 s.", 0.5), ("the server is stopping", None)],
)
def test_unavailable_says_when_to_try_again(words: str, retry: float | None) -> None:
    error = error_from_text(f"in ensemble 'misotts', UNAVAILABLE: {words}")
    assert isinstance(error, Unavailable)
    assert (error.message, error.retry_after_s) == (words, retry)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("TEXT", "unexpected shape for input 'TEXT' for model 'misotts'. Expected [1], got [2]. "),
        ("TEXT", "inference input 'TEXT' data-type is 'INT32', but model 'misotts' expects 'BYTES'"),
        (
            "TEXT",
            "expected 1 inputs but got 1 inputs for model 'misotts'. Got input(s) ['VOICE'], "
            "but missing required input(s) ['TEXT']. Please provide all required input(s).",
        ),
        ("FOO", "unexpected inference input 'FOO' for model 'misotts'"),
        ("SEED", "input byte size mismatch for input 'SEED' for model 'misotts'. Expected 8, got 4"),
    ],
)
def test_a_refusal_by_triton_names_the_field(field: str, text: str) -> None:
    text = f"[request id: <id_unknown>] {text}"
    error = error_from_text(text)
    assert isinstance(error, InvalidArgument)
    assert (error.field, error.message) == (field, text.strip())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (NotFound, "Request for unknown model: 'misotts' is not found"),
        (Unavailable, "Request for unknown model: 'misotts' has no available versions"),
        (Unavailable, "in ensemble 'misotts', Stub process 'decode_0_0' is not healthy."),
        (Unavailable, "Server is stopping, scheduler for model has stopped accepting new inference requests"),
        (Unavailable, "[request id: x] Exceeds maximum queue size"),
        (DeadlineExceeded, "[request id: x] Request timeout expired"),
        (Internal, "in ensemble 'misotts', [request id: x] unexpected shape for input 'CODES' for model 'decode'"),
        (Internal, "something new"),
    ],
)
def test_other_texts_of_triton(kind: type[MisoError], text: str) -> None:
    assert type(error_from_text(text)) is kind


def test_all_public_names_resolve() -> None:
    import misotts_client

    assert all(hasattr(misotts_client, name) for name in misotts_client.__all__)
    assert misotts_client.SAMPLE_RATE == 24_000
    with pytest.raises(AttributeError):
        misotts_client.nothing  # noqa: B018
