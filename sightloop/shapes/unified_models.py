"""The embedded world's models that both draw and see: the classes of Show-o and Janus with small sizes."""

from __future__ import annotations

from transformers import JanusVQVAEConfig

from sightloop.models.magvit2 import Magvit2, Magvit2Config

NUM_CODES = 512
"""Codes of the tiny Janus' picture tokenizer."""
GRID = 4
"""Image tokens along the side of a picture."""
UNIFIED_WIDTH = 128


def new_magvit2() -> Magvit2:
    """An untrained tiny MAGVIT-v2: 16 tokens of 8 x 8 pixels, 512 codes."""
    return Magvit2(
        Magvit2Config(
            channels=32,
            encoder_multipliers=(1, 1, 2, 2),
            encoder_blocks=(1, 1, 1, 1),
            decoder_multipliers=(1, 1, 2, 2),
            decoder_blocks=(1, 1, 1, 1),
            num_bits=9,
        )
    )


def vq_config() -> JanusVQVAEConfig:
    """Sizes of the tiny Janus' picture tokenizer: 16 tokens of 8 x 8 pixels."""
    return JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=NUM_CODES,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 2, 2],
        num_res_blocks=1,
        num_patches=GRID,
        projection_dim=UNIFIED_WIDTH,
        image_token_embed_dim=UNIFIED_WIDTH,
        num_hidden_layers=2,
    )
