"""The command `misotts info`."""

from __future__ import annotations

from math import prod

import typer

from misotts.cli.errors import one_line_errors
from misotts.cli.options import DEFAULT_MODEL, Model


def info(model: Model = DEFAULT_MODEL) -> None:
    """Print the sizes of a model: parameters, layers, heads, codebooks, context."""
    from misotts.config import ConfigError, ModelConfig
    from misotts.model.checkpoint import Checkpoint, tensor_shapes
    from misotts.model.weight_files import CheckpointError

    with one_line_errors(ConfigError, CheckpointError):
        config = ModelConfig.load(model)
        Checkpoint(model, config)
    shapes = tensor_shapes(config)
    typer.echo(f"{model}: {len(shapes)} tensors, {sum(map(prod, shapes.values())) / 1e6:.1f} M parameters")
    for name, part in (("backbone", config.backbone), ("depth decoder", config.depth)):
        heads = f"{part.num_heads} query heads, {part.num_kv_heads} KV heads"
        typer.echo(f"{name}: {part.num_layers} layers, width {part.embed_dim}, {heads}, MLP {part.intermediate_dim}")
    typer.echo(f"{config.audio_num_codebooks} codebooks of {config.audio_codes} codes, context {config.max_seq_len}")
