"""Vision transformers: ViT-B/16 (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021).

The dense layers of the blocks become binary; attention itself, two products of activations, stays
float, as do the patches and the classifier.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from bindeploy.errors import BindeployError

PATCH = 16
"""Pixels along an edge of a patch, which becomes one token."""

HEAD = 64
"""Numbers of a token that one attention head sees."""

EPSILON = 1e-6
"""What LayerNorm adds to the variance."""


class PatchEmbedding(nn.Module):
    """Images [N, C, H, W] -> a token a patch [N, T, D]."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """softmax(Q K' / sqrt(d)) V in D/64 heads beside each other, [N, T, D] -> [N, T, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(part) for part in self.qkv(x).chunk(3, dim=2))
        weights = (query @ key.transpose(2, 3) * HEAD**-0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[N, T, D] -> [N, heads, T, D/heads]."""
        return x.unflatten(2, (self.heads, HEAD)).transpose(1, 2)


class MLP(nn.Module):
    """Two dense layers, four times as wide between them, with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """x + attention, then x + MLP, each of the normalized tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 16x16 pixels and a class token, `depth` blocks, a classifier of the class token.

    Parameter names are those of timm, which publishes checkpoints of all of them. The nonlinearity
    is GELU, whatever `nonlinearity` says.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        image_size: int,
        nonlinearity: str,
        width: int,
        depth: int = 12,
    ) -> None:
        super().__init__()
        if image_size < 1 or image_size % PATCH:
            raise BindeployError(
                f"image size `{image_size}` does not fit a vision transformer:"
                f" give a multiple of {PATCH}"
            )
        tokens = 1 + (image_size // PATCH) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.patch_embed = PatchEmbedding(in_channels, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, classes)
        self._initialize()

    def _initialize(self) -> None:
        """Dense weights, token and positions are normal, deviation 0.02; biases 0 (as in DeiT)."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self._tokens(x)))[:, 0])

    def _tokens(self, x: Tensor) -> Tensor:
        """The class token and the patches, each with its position: [N, 1 + patches, width].

        The class token is added to the first position, not repeated for every image, so that the
        graph nowhere asks for the size of the batch.
        """
        patches = functional.pad(self.patch_embed(x), (0, 0, 1, 0))
        positions = torch.cat([self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]], 1)
        return patches + positions


deit_tiny = partial(VisionTransformer, width=192)
"""DeiT-Ti: 5.3 million binary parameters, 1.05 billion binary multiply-accumulates at 224x224."""

deit_small = partial(VisionTransformer, width=384)
"""DeiT-S: 21.2 million binary parameters, 4.18 billion binary multiply-accumulates at 224x224."""

deit_base = partial(VisionTransformer, width=768)
"""DeiT-B: 84.9 million binary parameters, 16.7 billion binary multiply-accumulates at 224x224."""

vit_base = deit_base
"""ViT-B/16: the network of DeiT-B, trained otherwise."""
