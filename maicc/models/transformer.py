"""The one transformer of the project: the mask is an argument, keys and values can be kept."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

KeyValues = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each (B, heads, L, D / heads)
_BLOCK = 64  # queries that plain causal attention takes at a time on CPU


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        at: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        seen_k, seen_v = k, v
        if past is not None:
            seen_k, seen_v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if at is not None:
            q = q.gather(2, at[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
            if mask is None:
                mask = (torch.arange(k.shape[2], device=at.device) <= at.unsqueeze(-1)).unsqueeze(1)
            else:
                mask = mask.expand(len(at), 1, *mask.shape[-2:])
                mask = mask.gather(2, at[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
        out = attend(q, seen_k, seen_v, mask, self.dropout if self.training else 0.0)
        return self.project(rearrange(out, "b h l d -> b l (h d)")), (k, v)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of (B, heads, L, d) queries; without a mask plain causal.

    On CPU, what no query of a block may see is not computed, and narrow heads stay in fp32 under
    autocast: bf16 is slower there.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-1] < 32:
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, dropout).to(q.dtype)
    L = q.shape[2]
    if mask is not None or q.device.type != "cpu" or L <= 2 * _BLOCK:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
        )
    seen = causal_mask(L, device=q.device)
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                q[:, :, i : i + _BLOCK],
                k[:, :, : i + _BLOCK],
                v[:, :, : i + _BLOCK],
                attn_mask=seen[i : i + _BLOCK, : i + _BLOCK],
                dropout_p=dropout,
            )
            for i in range(0, L, _BLOCK)
        ],
        2,
    )


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        at: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, own = self.attention(self.attention_norm(x), mask, past, at)
        x = (x if at is None else take_tokens(x, at)) + self.drop(attended)
        return x + self.drop(self.mlp(self.mlp_norm(x))), own


class Transformer(nn.Module):
    """Pre-norm transformer over tokens that are embedded already."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        initialise(self, layers)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        past: KeyValues | None = None,
        at: Tensor | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """
        Args:
            x: (B, L, D) new tokens.
            mask: Boolean, broadcastable to (B, heads, L, P + L), True where a token may look; None
                is plain causal attention, for which there must be no past.
            past: Keys and values of P earlier tokens, as returned for them.
            at: (B, n) the tokens whose outputs are wanted; the last layer computes no others.

        Returns:
            (B, L, D) outputs, or (B, n, D), and the new tokens' own keys and values.
        """
        if mask is None and past is not None:
            raise ValueError("tokens with a past need a mask; make one with causal_mask")
        x, kept = self.drop(x), []
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            x, own = block(x, mask, past[i] if past else None, at if last else None)
            kept.append(own)
        return self.norm(x), kept


def initialise(module: nn.Module, layers: int) -> None:
    """As in GPT-2: small weights, smaller still where a layer adds to the stream."""
    for name, parameter in module.named_parameters():
        if name.endswith(("project.weight", "mlp.2.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def causal_mask(new: int, past: int = 0, device: torch.device | None = None) -> Tensor:
    """(new, past + new) boolean: all of the past is visible, and new tokens up to oneself."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


def take_tokens(x: Tensor, at: Tensor) -> Tensor:
    """Each row's tokens at its own places: x (B, L, D), at (B, n) -> (B, n, D)."""
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def append(past: KeyValues | None, own: KeyValues) -> KeyValues:
    """The past with the new tokens' keys and values behind it."""
    if past is None:
        return own
    return [
        (torch.cat([pk, k], 2), torch.cat([pv, v], 2))
        for (pk, pv), (k, v) in zip(past, own, strict=True)
    ]
