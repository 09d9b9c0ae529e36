"""Uploads of voices to a gateway's HTTP port."""

import io
from typing import Any

import numpy as np
import soundfile

from tests.support.http import Answer, request

VOICES = "/v1/audio/voices"


def clip(seconds: float = 2.0, rate: int = 24_000, level: float = 0.1, form: str = "WAV", **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).standard_normal(int(seconds * rate)) * level
    soundfile.write(file, noise.clip(-1, 1), rate, format=form, **options)
    return file.getvalue()


CLIP = clip()


def upload(port: int, headers: dict[str, str], **fields: Any) -> Answer:
    """Upload a voice; a field that is None is left out, a tuple is (file name, type, contents)."""
    sent = {"name": "mine", "ref_text": "The words.", "consent": "cons_1", "audio_sample": ("a.wav", "audio/wav", CLIP)}
    raw = b""
    for name, value in {**sent, **fields}.items():
        if value is None:
            continue
        file, kind, content = value if isinstance(value, tuple) else ("", "", value.encode())
        told = f'; filename="{file}"' if file else ""
        raw += f'--b\r\ncontent-disposition: form-data; name="{name}"{told}\r\n'.encode()
        raw += (f"content-type: {kind}\r\n\r\n" if kind else "\r\n").encode() + content + b"\r\n"
    form = {"content-type": "multipart/form-data; boundary=b", **headers}
    return request(port, "POST", VOICES, raw + b"--b--\r\n", form)
