"""A chunk of speech, and how the responses of a stream become chunks."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import deserialize_bytes_tensor

from misotts_client.errors import Internal, Unavailable, error_from_text, error_of

SAMPLE_RATE = 24_000
"""Samples per second of all audio, in and out."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some of an utterance's audio; the chunks end to end are the utterance.

    Attributes:
        audio: [samples] float32, 24 kHz mono, -1..1, watermarked; may be empty in the last chunk.
        frame: the first sample is number frame x 1920 of the utterance.
        seed: the seed in use, with which the utterance can be made again.
        finish: empty, or in the last chunk why speech ended: `eos` or `length`.
    """

    audio: npt.NDArray[np.float32]
    frame: int
    seed: int
    finish: str


class ChunkReader:
    """Reads the responses of one stream, in order, and judges at its end whether speech is whole.

    Attributes:
        finish: what the last chunk said of the end of speech; empty until then.
    """

    def __init__(self) -> None:
        self.finish = ""

    def read(self, response: Any) -> Chunk | None:
        """The chunk in a `ModelStreamInferResponse`; None if it holds none, as all do after the end of speech.

        Raises:
            MisoError: the response is an error; its class is the one that the error's code names.
            Internal: the response is not in the contract's form.
        """
        if self.finish:
            return None
        if response.error_message:
            raise error_from_text(response.error_message)
        if not response.infer_response.outputs:  # Triton's way of saying that no more will come
            return None
        chunk = _parse(response.infer_response)
        self.finish = chunk.finish
        return None if error_of(chunk.finish) else chunk

    def end(self) -> None:
        """To be called when the stream has ended.

        Raises:
            Unavailable: it ended before speech did.
            MisoError: speech ended with an error.
        """
        if not self.finish:
            raise Unavailable("the server closed the stream before the end of speech")
        if error := error_of(self.finish):
            raise error


def _parse(message: Any) -> Chunk:
    try:
        raw = {output.name: data for output, data in zip(message.outputs, message.raw_output_contents, strict=True)}
        return Chunk(
            audio=np.frombuffer(raw["AUDIO"], "<f4").astype(np.float32),  # a copy: writable, and the message can go
            frame=struct.unpack("<i", raw["FRAME"])[0],
            seed=struct.unpack("<q", raw["SEED_USED"])[0],
            finish=deserialize_bytes_tensor(raw["FINISH"])[0].decode(),
        )
    except (LookupError, ValueError, struct.error) as error:
        raise Internal(f"the server's response is not a chunk of speech ({error!r})") from None
