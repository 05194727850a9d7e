"""The parts of MAGVIT-v2: sizes, the codebook of signs, encoder and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sightloop.models.weight_files import refuse_problems

_GROUPS, _EPSILON = 32, 1e-6


@dataclass(frozen=True, kw_only=True)
class Magvit2Config:
    """Sizes; the defaults are the published model's. Lists go by level: level 0 has the images' size.

    The lists of the decoder are its own, not those of the encoder backwards.
    """

    channels: int = 128
    encoder_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    """Residual blocks of each level."""
    decoder_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    num_bits: int = 13
    """Channels of a cell; 2 to this power is the number of codes."""

    def __post_init__(self) -> None:
        lists = (
            self.encoder_multipliers,
            self.encoder_blocks,
            self.decoder_multipliers,
            self.decoder_blocks,
        )
        if len({len(each) for each in lists}) != 1 or not all(min(each, default=0) >= 1 for each in lists):
            raise ValueError(
                f"multipliers and blocks are {lists}; give four lists of one length, all at least 1"
            )
        if self.channels < 1 or self.channels % _GROUPS:
            raise ValueError(
                f"channels is {self.channels}; use a multiple of {_GROUPS}, as its norms have groups"
            )
        if not 1 <= self.num_bits <= 30:
            raise ValueError(f"num_bits is {self.num_bits}; use 1 to 30")

    @property
    def factor(self) -> int:
        """Pixels along the side of a cell."""
        return 2 ** (len(self.encoder_blocks) - 1)

    @property
    def num_codes(self) -> int:
        """Different codes."""
        return 2**self.num_bits

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], *, source: str = "it") -> Magvit2Config:
        """The sizes that a checkpoint's shapes tell.

        Raises:
            ValueError: tensors that every MAGVIT-v2 has are missing.
        """
        needed = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_out.weight")
        refuse_problems(
            f"{source} is no MAGVIT-v2", [f"{name} is missing" for name in needed if name not in tensors]
        )
        channels = tensors["encoder.conv_in.weight"].shape[0]

        def levels(prefix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
            parts = [name.removeprefix(prefix).split(".") for name in tensors if name.startswith(prefix)]
            blocks: dict[int, set[int]] = {}
            for part in parts:
                if part[1:2] == ["block"] and part[0].isdigit() and part[2].isdigit():
                    blocks.setdefault(int(part[0]), set()).add(int(part[2]))
            first = [f"{prefix}{level}.block.0.conv1.weight" for level in range(len(blocks))]
            refuse_problems(
                f"{source} is no MAGVIT-v2", [f"{name} is missing" for name in first if name not in tensors]
            )
            widths = tuple(tensors[name].shape[0] // channels for name in first)
            return widths, tuple(len(blocks[level]) for level in range(len(blocks)))

        encoder, decoder = levels("encoder.down."), levels("decoder.up.")
        return cls(
            channels=channels,
            encoder_multipliers=encoder[0],
            encoder_blocks=encoder[1],
            decoder_multipliers=decoder[0],
            decoder_blocks=decoder[1],
            num_bits=tensors["encoder.conv_out.weight"].shape[0],
        )


class Codebook(nn.Module):
    """Code numbers and the signs of their bits; channel 0 is the most significant bit."""

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(num_bits - 1, -1, -1)
        bits = (torch.arange(2**num_bits)[:, None] & powers) > 0
        self.register_buffer("embedding", bits.float() * 2 - 1)
        self.register_buffer("power_vals", powers)

    def forward(
        self, latents: Float[Tensor, "B D h w"]
    ) -> tuple[Float[Tensor, "B D h w"], Int[Tensor, "B N"]]:
        """Signs that pass the gradient straight through, and their codes."""
        ids = self.ids_of(latents)
        signs = self.signs_of(ids, (latents.shape[-2], latents.shape[-1])).to(latents.dtype)
        return latents + (signs - latents).detach(), ids

    def ids_of(self, latents: Float[Tensor, "B D h w"]) -> Int[Tensor, "B N"]:
        """Codes row by row. A bit is set above zero, not at it."""
        # In integers: half precision cannot hold a code.
        bits = (latents > 0).long() * self.power_vals.long()[:, None, None]
        return bits.sum(1).flatten(1)

    def signs_of(self, ids: Int[Tensor, "B N"], grid: tuple[int, int]) -> Float[Tensor, "B D h w"]:
        """-1 or +1 for each bit."""
        powers = self.power_vals.long()[:, None]
        signs = (ids.long()[:, None] & powers).ne(0).float() * 2 - 1
        return signs.unflatten(2, grid)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, width, eps=_EPSILON)


def _conv(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1)


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inside), _conv(inside, outside)
        self.norm2, self.conv2 = _norm(outside), _conv(outside, outside)
        self.nin_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class _Attention(nn.Module):
    """Every cell looks at all cells; one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        q, k, v = (part(hidden).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.proj_out(seen)


class _Middle(nn.Module):
    """Where cells meet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            _Block(width, width),
            _Attention(width),
            _Block(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Down(nn.Module):
    """Half the size: the convolution's border is on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    """Twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """Residual blocks of one size, then a change of size."""

    def __init__(self, inside: int, outside: int, count: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(inside if i == 0 else outside, outside) for i in range(count))
        self.downsample: _Down | None = None
        self.upsample: _Up | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        x = x if self.downsample is None else self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class Encoder(nn.Module):
    """Images to cells."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.encoder_multipliers]
        bits, last = config.num_bits, len(widths) - 1
        self.conv_in = _conv(3, config.channels)
        self.down = nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
            made = _Level(config.channels if level == 0 else widths[level - 1], width, count)
            made.downsample = _Down(width) if level != last else None
            self.down.append(made)
        self.mid = _Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], bits)
        self.quant_conv = nn.Conv2d(bits, bits, 1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Cells of images."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class ImageDecoder(nn.Module):
    """Cells to images, from the last level to level 0."""

    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.decoder_multipliers]
        bits, last = config.num_bits, len(widths) - 1
        self.post_quant_conv = nn.Conv2d(bits, bits, 1)
        self.conv_in = _conv(bits, widths[-1])
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, config.decoder_blocks, strict=True)):
            made = _Level(widths[min(level + 1, last)], width, count)
            made.upsample = _Up(width) if level != 0 else None
            self.up.append(made)
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images of cells."""
        x = self.mid(self.conv_in(self.post_quant_conv(x)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
