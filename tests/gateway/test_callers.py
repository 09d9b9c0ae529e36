"""A caller's address behind proxies, its key, and its limits."""

import json
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from misotts_gateway.callers import Caller, Callers
from misotts_gateway.errors import TooMany, UnknownKey
from misotts_gateway.keys import Key, KeyFileError, Keys, read_keys
from misotts_gateway.limits import CallerLimits
from tests.support.gateway import write_keys

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("9.9.9.9:5", ["1.1.1.1"], "9.9.9.9"),
        ("10.0.0.1:5", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, 8.8.8.8, 10.0.0.2"], "8.8.8.8"),
        ("10.0.0.1", ["1.1.1.1", "8.8.8.8:77"], "8.8.8.8"),
        ("10.0.0.1", ["1.1.1.1, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("[::ffff:10.0.0.1]:5", ["[2a00:1:2:3:4:5:6:7]:443"], "2a00:1:2:3::"),
        ("[2001:db8::1]:5", ["8.8.8.8"], "8.8.8.8"),
        ("[2a00:1:2:3:9::1]:5", ["8.8.8.8"], "2a00:1:2:3::"),
        ("10.0.0.1", ["8.8.8.8, " + "10.0.0.2, " * 100 + "10.0.0.3"], "10.0.0.2"),
    ],
)
def test_the_address_is_the_rightmost_one_that_no_trusted_proxy_has(
    peer: str, forwarded: list[str], address: str
) -> None:
    assert Callers(NETWORKS, Keys(None)).address(peer, forwarded) == address


ANN = {"key of ann": {"name": "ann"}}


def test_a_key_is_found_however_it_is_shown(tmp_path: Path) -> None:
    keys = Keys(write_keys(tmp_path / "keys", {"key of ann": {"name": "ann", "tenant": "acme", "streams": 2}}))
    expected = (Key("ann", "acme", streams=2), "key of ann")
    for name, value in (
        ("authorization", "Bearer key of ann"),
        ("authorization", "bearer   key of ann "),
        ("authorization", "Token key of ann"),
        ("x-api-key", "key of ann"),
    ):
        assert keys.find({name: [value]}) == expected
    assert keys.find({"authorization": ["Bearer key of ann"], "x-api-key": ["key of ann"]}) == expected


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "is required"),
        ({"authorization": ["Bearer "]}, "not known"),
        ({"authorization": ["Bearer nonsense"]}, "not known"),
        ({"x-api-key": ["\u201ckey of ann\u201d"]}, "not known"),
        ({"x-api-key": ["caf\udce9"]}, "not known"),
        ({"x-api-key": ["k" * 10_000]}, "not known"),
        ({"authorization": ["Bearer key of ann", "Bearer wrong"]}, "two different"),
        ({"authorization": ["Bearer key of ann"], "x-api-key": ["wrong"]}, "two different"),
    ],
)
def test_any_other_key_is_refused(tmp_path: Path, headers: dict[str, list[str]], words: str) -> None:
    keys = Keys(write_keys(tmp_path / "keys", ANN))
    with pytest.raises(UnknownKey, match=words):
        keys.find(headers)


def test_only_what_metadata_can_carry_goes_to_another_gateway() -> None:
    callers, span = Callers((), Keys(None)), f"00-{'a' * 32}-{'b' * 16}-01"
    for key, traced in (("a\nb", "nonsense"), ("k\xe9", f"{span}\n"), ("k" * 513, span.upper())):
        caller = callers.identify("127.0.0.1", {"x-api-key": [key], "traceparent": [traced]})
        assert (caller.token, caller.traceparent) == ("", "")
    caller = callers.identify("127.0.0.1", {"x-api-key": ["key of ann"], "traceparent": [span]})
    assert (caller.token, caller.traceparent) == ("key of ann", span)


def test_the_file_is_read_again_when_it_changes_and_only_if_it_is_right(tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys", ANN)
    keys = Keys(file)
    write_keys(file, {"key of bob": {"name": "bob"}})
    os.utime(file, ns=(1, 1))
    keys.reread()
    assert keys.find({"x-api-key": ["key of bob"]})[0] == Key("bob", "bob")
    for broken in ("{", ""):
        file.write_text(broken)
        keys.reread()
    file.unlink()
    keys.reread()
    assert keys.find({"x-api-key": ["key of bob"]})[0] == Key("bob", "bob")
    with pytest.raises(UnknownKey):
        keys.find({"x-api-key": ["key of ann"]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is not JSON of the form"),
        ('{"keys": 5}', "is not JSON of the form"),
        ('{"keys": [{"name": "a b", "sha256": ""}]}', "needs a name"),
        ('{"keys": [{"name": "a", "sha256": "secret"}]}', "64 hexadecimal digits"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "streams": 0}]}), "streams .* from 1, got 0"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "streams": True}]}), "streams .* got True"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "stream": 1}]}), "unknown field 'stream'"),
        (json.dumps({"keys": [{"name": "a", "sha256": "0" * 64}] * 2}), "twice"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyFileError, match=words) as caught:
        read_keys(tmp_path / "keys")
    assert "\n" not in str(caught.value)
    with pytest.raises(KeyFileError, match="No such file"):
        read_keys(tmp_path / "none")


def test_an_utterance_counts_until_its_end_and_a_refusal_uses_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("misotts_gateway.limits.time.monotonic", lambda: now)
    key = Caller("1.1.1.1", "id", Key("ann", "ann", streams=1, requests_per_minute=2))
    limits = CallerLimits(per_address=3)
    with limits.hold(key), pytest.raises(TooMany, match="has 1 streams") as caught, limits.hold(key):
        pass
    assert caught.value.reason == "streams_per_key"
    with limits.hold(key):
        now += 20
    with pytest.raises(TooMany, match=r"2 requests within a minute.*try again in 40 s") as caught, limits.hold(key):
        pass
    assert caught.value.retry_after_s == 40
    now += 40
    with limits.hold(key):
        assert limits.taken == 1
    assert limits.taken == 0


def test_an_address_has_a_limit_of_its_own() -> None:
    limits = CallerLimits(per_address=1)
    with limits.hold(Caller("1.1.1.1", "a")), limits.hold(Caller("2.2.2.2", "b")):
        with pytest.raises(TooMany, match=r"1\.1\.1\.1 has 1"), limits.hold(Caller("1.1.1.1", "c")):
            pass
        assert limits.taken == 2
