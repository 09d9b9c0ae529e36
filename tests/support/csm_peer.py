"""The networks of the peer (`benchmarks.csm_peer`), run frame by frame, with the logits of every code."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CsmForConditionalGeneration, DynamicCache

from misotts.config import MASKED, ModelConfig


@dataclass(frozen=True)
class Frame:
    codes: torch.Tensor
    """int64 [codebooks]."""
    logits: torch.Tensor
    """[codebooks, audio codes]; codes that are not audio are left out."""


@torch.inference_mode()
def peer_frames(
    peer: CsmForConditionalGeneration, config: ModelConfig, prompt: np.ndarray, forced: torch.Tensor | None = None
) -> Iterator[Frame]:
    """Yield the frames after `prompt` int32 [positions, codebooks + 1]: greedy, or `forced` [frames, codebooks]."""
    cache = DynamicCache(config=peer.config)
    inputs = _embed(peer, torch.from_numpy(prompt.astype(np.int64)))
    frame = 0
    while forced is None or frame < len(forced):
        out = peer(inputs_embeds=inputs, past_key_values=cache, use_cache=True, output_hidden_states=True)
        given = None if forced is None else forced[frame]
        computed = _depth(peer, config, out.logits[0, -1], out.hidden_states[-1][:, -1], given)
        yield computed
        inputs = peer.backbone_model.embed_tokens(computed.codes.view(1, 1, -1))
        frame += 1


def _embed(peer: CsmForConditionalGeneration, prompt: torch.Tensor) -> torch.Tensor:
    text, audio = prompt[:, -1], prompt[:, :-1]
    is_text = text != MASKED
    from_text = peer.embed_text_tokens(text.clamp(min=0))
    from_audio = peer.backbone_model.embed_tokens(audio.clamp(min=0).unsqueeze(0))[0]
    return torch.where(is_text.unsqueeze(1), from_text, from_audio).unsqueeze(0)


def _depth(
    peer: CsmForConditionalGeneration,
    config: ModelConfig,
    first_logits: torch.Tensor,
    hidden: torch.Tensor,
    given: torch.Tensor | None,
) -> Frame:
    cache = DynamicCache(config=peer.depth_decoder.config)
    logits = [first_logits[: config.audio_codes].float()]
    codes = [logits[0].argmax() if given is None else given[0]]
    step = torch.stack([torch.zeros_like(codes[0]), codes[0]]).view(1, 2)
    state: torch.Tensor | None = hidden
    for codebook in range(1, config.audio_num_codebooks):
        out = peer.depth_decoder(
            step, backbone_last_hidden_state=state, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits.append(out.logits[0, -1, : config.audio_codes].float())
        codes.append(logits[-1].argmax() if given is None else given[codebook])
        step, state = codes[-1].view(1, 1), None
    return Frame(torch.stack(codes), torch.stack(logits))
