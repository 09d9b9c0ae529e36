"""`/v1/audio/voices`: the list, uploads and deletions, aliases, and what must not be reached by a name."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from misotts.prompt.voices import Voices, add_voice
from misotts_gateway.voices.names import DEFAULT_ALIASES, OPENAI_VOICES, read_aliases, uploaded_name
from tests.support.fake_triton import FakeTriton, running
from tests.support.gateway import RunningGateway, running_gateway, write_keys
from tests.support.http import request, speak
from tests.support.tone import inputs, speak_tone
from tests.support.uploads import CLIP, VOICES, clip, upload

pytestmark = pytest.mark.server  # each upload starts a process that decodes the clip

KEYS: dict[str, dict[str, Any]] = {
    "k-anna": {"name": "anna", "tenant": "a", "voices": True},
    "k-bert": {"name": "bert", "tenant": "b", "voices": True},
    "k-read": {"name": "read", "tenant": "a"},
}
ANNA, BERT, READ = ({"authorization": f"Bearer {token}"} for token in KEYS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of voices, with one of the operator's."""
    folder = tmp_path_factory.mktemp("voices") / "inner"
    folder.mkdir()
    source = folder.parent / "source.wav"
    source.write_bytes(CLIP)
    add_voice(folder, "operator", source, "The words.")
    return folder


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeTriton]:
    with running(f"{tmp_path_factory.mktemp('run')}/grpc:1") as fake:
        fake.script = speak_tone()
        yield fake


@pytest.fixture(scope="module")
def gateway(triton: FakeTriton, folder: Path) -> Iterator[RunningGateway]:
    keys = write_keys(folder.parent / "keys.json", KEYS)
    aliases = [f"--voice-alias={entry}" for entry in ("nova=operator", "echo=speaker:7", "onyx=")]
    with running_gateway(triton.url, f"--api-keys={keys}", f"--voices={folder}", *aliases) as running_one:
        yield running_one


@pytest.fixture
def port(gateway: RunningGateway, triton: FakeTriton, folder: Path) -> Iterator[int]:
    triton.requests.clear()
    yield gateway.http_port
    for file in folder.glob("u-*"):
        file.unlink()


def listed(port: int, headers: dict[str, str]) -> dict[str, Any]:
    return {voice["id"]: voice for voice in request(port, "GET", VOICES, headers=headers).json["voices"]}


def voice_of(port: int, triton: FakeTriton, headers: dict[str, str], voice: Any) -> tuple[int, Any, Any]:
    """Return the status of a request with a voice, and VOICE and SPEAKER as they were sent on."""
    triton.requests.clear()
    status = speak(port, headers={"content-type": "application/json", **headers}, voice=voice).status
    sent = inputs(triton.requests[0]) if triton.requests else {}
    return status, sent.get("VOICE"), sent.get("SPEAKER")


def test_a_voice_comes_and_goes(port: int, triton: FakeTriton, folder: Path) -> None:
    given = upload(port, ANNA)
    assert given.status == 200
    created = given.json
    assert {name: created[name] for name in ("id", "name", "object", "type")} == {
        **{"id": "mine", "name": "mine", "object": "audio.voice", "type": "audio_sample"}
    }
    assert listed(port, ANNA)["mine"]["created_at"] == created["created_at"]
    assert listed(port, READ)["mine"]["type"] == "uploaded"  # the same tenant
    assert "mine" not in listed(port, BERT)
    inner = uploaded_name("a", "mine")
    assert voice_of(port, triton, ANNA, "mine") == (200, inner, None)
    assert voice_of(port, triton, BERT, "mine")[0] == 404
    assert voice_of(port, triton, BERT, inner)[0] == 404  # not by its name in the folder either
    # The stage reads it as it reads the operator's.
    assert Voices(folder).segment(inner, 0).text == "The words."
    assert upload(port, ANNA).error["code"] == "voice_exists"
    assert upload(port, BERT).status == 200  # another tenant has names of its own
    assert request(port, "DELETE", f"{VOICES}/mine", headers=ANNA).json["deleted"] is True
    assert request(port, "DELETE", f"{VOICES}/mine", headers=ANNA).status == 404
    assert voice_of(port, triton, ANNA, "mine")[0] == 404
    assert voice_of(port, triton, BERT, "mine")[0] == 200
    assert not list(folder.glob(f"{inner}*"))


def test_the_operators_voices_are_for_every_tenant_and_read_only(port: int, triton: FakeTriton, folder: Path) -> None:
    assert voice_of(port, triton, BERT, "operator") == (200, "operator", None)
    assert voice_of(port, triton, BERT, {"id": "operator"}) == (200, "operator", None)
    assert upload(port, ANNA, name="operator").status == 409
    assert request(port, "DELETE", f"{VOICES}/operator", headers=ANNA).status == 403
    assert (folder / "operator.flac").exists()


def test_only_keys_that_may(port: int) -> None:
    assert upload(port, READ).status == 403
    assert request(port, "DELETE", f"{VOICES}/mine", headers=READ).status == 403
    assert request(port, "GET", "/v1/models/misotts", headers=READ).json["uploads"] is False
    assert request(port, "GET", "/v1/models/misotts", headers=ANNA).json["uploads"] is True


def test_aliases(port: int, triton: FakeTriton) -> None:
    names = listed(port, ANNA)
    assert set(OPENAI_VOICES) - {"onyx"} <= set(names)
    assert "onyx" not in names
    assert voice_of(port, triton, ANNA, "nova") == (200, "operator", None)
    assert voice_of(port, triton, ANNA, "echo") == (200, None, 7)
    assert voice_of(port, triton, ANNA, "alloy") == (200, None, 0)
    assert voice_of(port, triton, ANNA, None) == (200, None, None)
    assert upload(port, ANNA, name="alloy").status == 200  # a voice of one's own wins
    assert voice_of(port, triton, ANNA, "alloy") == (200, uploaded_name("a", "alloy"), None)
    assert voice_of(port, triton, BERT, "alloy") == (200, None, 0)


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "..", "", "A", "ümlaut", "a" * 65, "con\x00", " anna ", "anna\n", ".", "a.b", "a\\b"]
)
def test_names_that_are_refused(port: int, folder: Path, name: str) -> None:
    outside = sorted(folder.parent.rglob("*"))
    given = upload(port, ANNA, name=name)
    assert (given.status, given.error["param"]) == (400, "name")
    assert request(port, "DELETE", f"{VOICES}/{quote(name, safe='')}", headers=ANNA).status in (404, 405)
    spoken = speak(port, headers={"content-type": "application/json", **ANNA}, voice=name)
    assert (spoken.status, spoken.error["param"]) == (400, "voice")
    assert sorted(folder.parent.rglob("*")) == outside


def test_the_same_answer_whether_a_file_exists_or_not(port: int, folder: Path) -> None:
    headers = {"content-type": "application/json", **ANNA}
    names = ["../source", "../nothing"]
    messages = [speak(port, headers=headers, voice=name).error["message"].replace(name, "") for name in names]
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": None}, "name"),
        ({"ref_text": None}, "ref_text"),
        ({"consent": None}, "consent"),
        ({"consent": ""}, "consent"),
        ({"audio_sample": None}, "audio_sample"),
        ({"audio_sample": "text"}, "audio_sample"),
        ({"name": ("a", "text/plain", b"mine")}, None),  # two files
        ({"ref_text": "  "}, "ref_text"),
        ({"ref_text": "a" * 4_001}, "ref_text"),
        ({"audio_sample": ("a.wav", "audio/wav", b"")}, "audio_sample"),
        ({"audio_sample": ("a.webm", "audio/webm;codecs=opus", b"\x1aE\xdf\xa3" + bytes(500))}, "audio_sample"),
        ({"audio_sample": ("a.wav", "audio/wav", clip(0.5))}, "audio_sample"),
        ({"audio_sample": ("a.wav", "audio/wav", clip(31))}, "audio_sample"),
        ({"audio_sample": ("a.wav", "audio/wav", clip(2, level=0))}, "audio_sample"),
        ({"audio_sample": ("a.wav", "audio/wav", bytes(10 * 2**20 + 1))}, "audio_sample"),
    ],
)
def test_uploads_that_are_refused(port: int, folder: Path, fields: dict[str, Any], param: str | None) -> None:
    before = sorted(folder.iterdir())
    given = upload(port, ANNA, **fields)
    assert (given.status, given.error["param"]) == (400, param)
    assert "u-" not in given.error["message"]
    assert sorted(folder.iterdir()) == before


def test_what_cannot_be_read_is_told_what_can(port: int) -> None:
    message = upload(port, ANNA, audio_sample=("a.m4a", "audio/mp4", b"\0\0\0\x20ftypM4A " + bytes(99))).error[
        "message"
    ]
    assert all(name in message for name in ("WAV", "FLAC", "MP3"))


@pytest.mark.parametrize(
    "file",
    [
        ("../../x.wav", "audio/wav", CLIP),
        ("a", "application/octet-stream", clip(form="FLAC")),
        ("a.exe", "", clip(rate=48_000)),
        ("a.mp3", "audio/webm;codecs=opus", clip(form="MP3")),
    ],
)
def test_the_contents_of_a_clip_decide(port: int, folder: Path, file: tuple[str, str, bytes]) -> None:
    assert upload(port, ANNA, audio_sample=file).status == 200
    assert not list(folder.parent.glob("x*"))


def test_uploads_at_once(port: int) -> None:
    stereo = clip(30, rate=48_000, form="FLAC")
    with ThreadPoolExecutor(12) as pool:
        names = [f"v{index}" for index in range(4)]
        statuses = list(
            pool.map(lambda name: upload(port, ANNA, name=name, audio_sample=("a", "", stereo)).status, names)
        )
    assert statuses == [200] * 4


def test_a_body_that_is_no_form(port: int) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\xff"):
        given = request(port, "POST", VOICES, b"x" * 100, {**ANNA, "content-type": kind})
        assert given.status == 400, kind
    given = request(port, "POST", VOICES, b"{}", {**ANNA, "content-type": "application/json"})
    assert given.status == 415
    assert given.error["message"] == "the content type must be multipart/form-data, got application/json"
    form = {**ANNA, "content-type": "multipart/form-data; boundary=b"}
    assert request(port, "POST", VOICES, bytes(11 * 2**20), form).status == 413


def test_the_alias_table() -> None:
    assert set(DEFAULT_ALIASES) == set(OPENAI_VOICES)
    assert read_aliases(["alloy=anna", "x=speaker:3", "echo="]) == {
        **{name: target for name, target in DEFAULT_ALIASES.items() if name != "echo"},
        **{"alloy": "anna", "x": "speaker:3"},
    }
    for entry in ("alloy", "=anna", "A=anna", "a=B", "a=speaker:x", "a=../b"):
        with pytest.raises(ValueError, match="NAME=VOICE"):
            read_aliases([entry])


def test_without_a_folder_another_servers_voices_are_passed_on(tmp_path: Path) -> None:
    with running() as inner, running_gateway(inner.url) as outer:
        inner.script = speak_tone()
        assert voice_of(outer.http_port, inner, {}, "anna") == (200, "anna", None)
        assert upload(outer.http_port, {}).status == 403
