"""Conversations on the real server, by gRPC."""

from misotts_client import Client


def test_a_conversation_that_ends_speaks_nothing(client: Client) -> None:
    ended = client.speak("", session="nothing", session_end=1)
    assert (len(ended.audio), ended.finish, ended.session_turns) == (0, "eos", 0)
