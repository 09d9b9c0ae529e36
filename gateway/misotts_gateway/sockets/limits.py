"""The limits of a WebSocket. docs/websockets.md lists them."""

MAX_MESSAGE = 256 * 2**10
"""Bytes of a message; the listener closes with 1009 beyond it. An answer of an LLM takes 10 KiB."""
MESSAGES_PER_S = 500.0
"""Messages beyond `BURST` are read at this rate: three times the tokens that a fast LLM writes."""
BURST = 1_000
IDLE_S = 300.0
"""A socket without messages and speech is closed after this time: above the pauses that clients make."""
PING_S = 20.0
"""Between pings."""
PONG_S = 60.0
"""A caller that has not answered a ping by then has vanished. Pings wait behind audio that the caller has not read."""
CLOSE_S = 1.0
"""Time in which a caller may take what comes before the end."""
MAX_TURNS = 32
"""Open contexts of a socket. Those with nothing left to say are forgotten first."""
MAX_ID = 512
"""Characters of a context's name."""
MAX_ACTIONS = 1_000
"""Utterances and marks, such as Flush, that wait on a socket."""
HOLD_S = 5.0
"""A turn that waits for text keeps its place among its caller's streams for this long."""
SLICE_SAMPLES = 12_000
"""Samples of a message: 0.5 s, in at most 128 KiB. Clients refuse messages of 1 MiB."""
CONTROL_BURST, CONTROL_PER_S = 50, 5.0
"""Pings and pongs of a caller: clients ping every 5 to 20 s."""
MAX_FRAGMENTS = 1_000
"""Fragments of a message; clients send one."""
