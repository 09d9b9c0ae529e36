"""Goes on with the training from the committed files, after a work folder has been lost.

`weights/` holds the networks and the code tables in float16; `codes.safetensors` holds the rest of the codes: the
principal components and the network of codebook 0. Clips are spoken anew, and optimizers start anew.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from demo.model import VOICE
from demo.voice.codec import Decoder, Encoder, mimi_with
from demo.voice.codes import Codes, Semantic
from demo.voice.files import write_whole
from demo.voice.lm import LanguageModel
from demo.voice.sizes import SEMANTIC, model_config
from misotts.config import TransformerConfig
from misotts.model.weight_files import save_weights

PROJECTION = Path(__file__).with_name("codes.safetensors")


def save_projection(work: Path) -> None:
    """Write `codes.safetensors` to the work folder. It lacks the head of `Semantic`, which only serves its training."""
    codes = Codes.load(work / "codes.pt")
    body = {f"body.{name}": tensor for name, tensor in codes.semantic.body.state_dict().items()}
    tensors = {"mean": codes.mean, "components": codes.components, **body}
    save_weights(work / PROJECTION.name, {name: tensor.half() for name, tensor in tensors.items()})


def restore(work: Path) -> None:
    """Write `codes.pt`, and each network's weights as `<name>-start.pt`, to an empty work folder."""
    mimi = {name: tensor.float() for name, tensor in load_file(VOICE / "mimi.safetensors").items()}
    codes = _codes(mimi)
    codes.save(work / "codes.pt")
    whole = mimi_with(codes)
    whole.load_state_dict(mimi)
    states = {"lm": _language_model(), "decoder": Decoder(whole).state_dict(), "encoder": Encoder(whole).state_dict()}
    for name, state in states.items():
        with write_whole(work / f"{name}-start.pt") as draft:
            torch.save(state, draft)


def _codes(mimi: dict[str, Tensor]) -> Codes:
    saved = {name: tensor.float() for name, tensor in load_file(PROJECTION).items()}
    semantic = Semantic()
    semantic.load_state_dict({name: saved[name] for name in saved if name.startswith("body.")}, strict=False)
    table = "quantizer.rvq_{}.vq.layers.{}._codebook.embedding_sum"
    books = [mimi[table.format("rest", number)] for number in range(model_config().audio_num_codebooks - 1)]
    semantic_book = mimi[table.format("first", 0)][:, :SEMANTIC]
    return Codes(saved["mean"], saved["components"], torch.stack(books), semantic, semantic_book)


def _language_model() -> dict[str, Tensor]:
    """Return the state of `LanguageModel`: the inverse of `export.language_model`. The heads that only the training has
    are new."""
    weights = {name: tensor.float() for name, tensor in load_file(VOICE / "model.safetensors").items()}
    config, state = model_config(), LanguageModel().state_dict()
    for part, sizes in (("backbone", config.backbone), ("decoder", config.depth)):
        state[f"{part}.norm.weight"] = weights.pop(f"{part}.norm.scale")
        for number in range(sizes.num_layers):
            state |= _layer(weights, f"{part}.layers.{number}", sizes)
    return state | {name: tensor for name, tensor in weights.items() if name in state}


def _layer(weights: dict[str, Tensor], prefix: str, sizes: TransformerConfig) -> dict[str, Tensor]:
    def part(name: str) -> Tensor:
        return weights[f"{prefix}.{name}"]

    q = _halves(part("attn.q_proj.weight"), sizes.num_heads)
    k = _halves(part("attn.k_proj.weight"), sizes.num_kv_heads)
    made = {
        "qkv": torch.cat([q, k, part("attn.v_proj.weight")]),
        "output": part("attn.output_proj.weight"),
        "gate_up": torch.cat([part("mlp.w1.weight"), part("mlp.w3.weight")]),
        "down": part("mlp.w2.weight"),
        "sa_norm": part("sa_norm.scale"),
        "mlp_norm": part("mlp_norm.scale"),
    }
    return {f"{prefix}.{name}.weight": tensor for name, tensor in made.items()}


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Torchtune's interleaved RoPE pairs → half-split ones: the inverse of the exporter's."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
