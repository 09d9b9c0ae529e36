"""prompt: a request → a checked prompt. See `misotts.prompt`."""

from __future__ import annotations

import queue
import time
from typing import Any

import numpy as np

from misotts.mimi import encode, load_mimi
from misotts.prompt import Prompter
from misotts.triton.request import read_request
from misotts.triton.stage import Stage, log
from misotts.triton.tensors import array, send
from misotts.triton.worker import Worker
from misotts.voices import Voices
from misotts_client.errors import Internal, InvalidArgument, MisoError, Unavailable

MAX_WAITING = 256
NO_DEADLINE = 0.0


class TritonPythonModel(Stage):
    name = "prompt"

    def load(self) -> None:
        folder = self.settings.model_folder
        self.link.loading("tokenizer, Mimi encoder")
        mimi = load_mimi(folder, self.config, self.device)
        voices = Voices(self.settings.voices_folder)
        self.prompts = self.refused = 0
        # One prompt a pass: a long line is no sign that the worker hangs.
        self.worker = Worker(self.process, key=lambda _: None, limit=MAX_WAITING)

        def encode_clip(audio: np.ndarray) -> np.ndarray:
            self.worker.sign_of_life()  # a context may be of hundreds of clips
            return encode(mimi, audio)

        self.prompter = Prompter(folder, self.config, encode_clip, voices)

    def check_secret(self, request: Any) -> None:
        if array(request, "TEXT") is None:
            raise InvalidArgument("TEXT", "is required, it was left out")
        if array(request, self.settings.door) is None:  # the ensemble fills it from TEXT
            self.refuse_outsider()

    def take(self, request: Any, sender: Any) -> None:
        arrived = time.monotonic()
        try:
            self.worker.put((read_request(request), arrived, sender))
        except queue.Full:
            raise Unavailable("too many prompts wait; try again in 1 s", retry_after_s=1.0) from None

    def process(self, batch: list[Any]) -> None:
        for request, arrived, sender in batch:
            try:
                prompt = self.prompter.build(request, arrived)
            except MisoError as error:
                self.refuse(sender, error)
            except Exception:
                log.exception("a prompt failed")
                self.check_device()
                self.refuse(sender, Internal("the prompt stage failed"))
            else:
                self.answer(prompt, sender)

    def refuse(self, sender: Any, error: MisoError) -> None:
        self.refused += 1
        super().refuse(sender, error)

    def answer(self, prompt: Any, sender: Any) -> None:
        self.prompts += 1
        send(
            sender,
            {
                "SECRET": self.settings.secret,
                "FRAMES": prompt.frames,
                "MAX_FRAMES": np.array([prompt.max_frames], np.int32),
                "SEED": np.array([prompt.seed], np.int64),
                "TEMPERATURE": np.array([prompt.temperature], np.float32),
                "TOP_K": np.array([prompt.top_k], np.int32),
                "CHUNK_FRAMES": np.array([prompt.chunk_frames], np.int32),
                "DEADLINE": np.array([prompt.deadline or NO_DEADLINE], np.float64),
            },
            final=True,
        )

    def idle_s(self) -> float:
        return time.monotonic() - self.worker.last_sign

    def report(self) -> dict[str, float]:
        return {
            "busy_seconds_total": self.worker.busy_s,
            "prompts_total": self.prompts,
            "refused_total": self.refused,
        }

    def state(self) -> dict[str, float]:
        return {"waiting": self.worker.waiting}
