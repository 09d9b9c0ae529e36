"""The gateway: the only process of a misotts server that callers reach.

It turns a request's bytes into a checked `SpeechRequest`, makes a fresh message of it, and passes the chunks of the
private Triton on to the caller.
"""
