"""The one transformer of the project: the mask is an argument, keys and values can be kept.

Dimensions: B rows of a batch, L new tokens, P earlier tokens (the past), n tokens whose outputs are
wanted, D width, h heads, d = D / h width of a head.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

KeyValues = list[tuple[Tensor, Tensor]]  # per layer: keys and values, each (B, h, L, d)
Positions = Tensor | slice  # of n tokens: numbers (B, n), or the same tokens of all rows
_BLOCK = 64  # queries that plain causal attention takes at a time on CPU
_NARROW = 32  # heads below this width attend in fp32 on CPU


class Attention(nn.Module):
    """Multi-head attention of new tokens to the past and to each other."""

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
        positions: Positions | None = None,
        at: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs of the new tokens, and keys and values of all tokens.

        Args:
            x: (B, L, D) new tokens.
            mask: Boolean, broadcastable to (B, h, L, P + L), True where a token may look; None is
                plain causal attention.
            past: Keys and values of the P earlier tokens, (B, h, P, d) each.
            positions: The n new tokens that look; all of them by default. Every new token is
                looked at in any case.
            at: The past has places for tokens to come, of which this is the first. The new tokens
                are written there. None if it has none.

        Returns:
            (B, L, D) outputs, or (B, n, D), and keys and values of the past with the new tokens
            behind it, (B, h, P + L, d) each.
        """
        # each (B, h, L, d)
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        all_k, all_v = k, v  # (B, h, P + L, d)
        if past is not None and at is None:
            all_k, all_v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        elif past is not None:
            all_k, all_v = (part[:, :, : at + k.shape[2]] for part in past)
            all_k[:, :, at:], all_v[:, :, at:] = k, v
        if positions is not None:
            mask = _mask_rows(mask, positions, k)  # (B, 1, n, P + L)
            q = _queries(q, positions)
        out = attend(q, all_k, all_v, mask, self.dropout if self.training else 0.0)
        return self.project(rearrange(out, "b h l d -> b l (h d)")), (all_k, all_v)


def _queries(q: Tensor, positions: Positions) -> Tensor:
    """Queries (B, h, L, d) of the tokens at n positions -> (B, h, n, d)."""
    if isinstance(positions, slice):
        return q[:, :, positions]
    return q.gather(2, positions[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))


def _mask_rows(mask: Tensor | None, positions: Positions, k: Tensor) -> Tensor:
    """Rows of the mask of new tokens, with keys k (B, h, L, d), that belong to n positions.

    Returns:
        (B, 1, n, P + L).
    """
    B, _, L, _ = k.shape
    mask = causal_mask(L, device=k.device) if mask is None else mask
    mask = mask.expand(B, 1, L, -1)
    if isinstance(positions, slice):
        return mask[:, :, positions]
    return mask.gather(2, positions[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))


class MLP(nn.Sequential):
    """Two linear layers with a GELU between them, applied to each token by itself."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """One layer: attention, then an MLP, each normalised before and added to the stream after."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        positions: Positions | None = None,
        at: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs of the new tokens, and keys and values of all; see `Attention.forward`."""
        attended, kv = self.attention(self.attention_norm(x), mask, past, positions, at)
        x = (x if positions is None else take_tokens(x, positions)) + self.drop(attended)
        return x + self.drop(self.mlp(self.mlp_norm(x))), kv


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
        positions: Positions | None = None,
        at: int | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """Outputs of the new tokens, and keys and values of all tokens in every layer.

        Args:
            x: (B, L, D) new tokens.
            mask: Boolean, broadcastable to (B, h, L, P + L), True where a token may look; None is
                plain causal attention, for which there must be no past.
            past: Keys and values of P earlier tokens, as returned for them.
            positions: The n new tokens whose outputs are wanted; all of them by default. The last
                layer computes no others.
            at: First of the past's places for tokens to come, where it has any; the new tokens are
                written there, and P is this number.

        Returns:
            (B, L, D) outputs, or (B, n, D), and per layer keys and values of the past with the new
            tokens behind it: the past of the next tokens.

        Raises:
            ValueError: there is a past and no mask.
        """
        if mask is None and past is not None:
            raise ValueError("tokens with a past need a mask; make one with causal_mask")
        x, kv = self.drop(x), []
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            x, layer = block(x, mask, past[i] if past else None, positions if last else None, at)
            kv.append(layer)
        return self.norm(x), kv

    def extend(
        self,
        x: Tensor,
        past: KeyValues,
        visible: Tensor,
        positions: Positions | None = None,
        at: int | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """Reads new tokens (B, L, D) that see parts of a past and, causally, each other.

        Args:
            past: Keys and values of P earlier tokens.
            visible: (B, P) bool, the earlier tokens that are seen.
            positions: As in `forward`.
            at: As in `forward`.

        Returns:
            Outputs, and keys and values, as in `forward`.
        """
        B, L = x.shape[:2]
        among = causal_mask(L, device=x.device).expand(B, L, L)
        mask = torch.cat([visible.unsqueeze(1).expand(B, L, -1), among], 2).unsqueeze(1)
        return self(x, mask, past, positions, at)


def initialise(module: nn.Module, layers: int) -> None:
    """Draws weights as in GPT-2: small, and smaller still where a layer adds to the stream.

    Layers that add to the stream are found by their names: `project` and the second of `mlp`.
    """
    for name, parameter in module.named_parameters():
        if name.endswith(("project.weight", "mlp.2.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def causal_mask(new: int, past: int = 0, device: torch.device | None = None) -> Tensor:
    """Boolean mask (new, past + new) of plain causal attention behind a past.

    A new token may look at all of the past, at the new tokens before it and at itself.
    """
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


def take_tokens(x: Tensor, positions: Positions) -> Tensor:
    """Picks tokens of each row: x (B, L, D) -> (B, n, D)."""
    if isinstance(positions, slice):
        return x[:, positions]
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def append(past: KeyValues, new: KeyValues) -> KeyValues:
    """Puts new tokens' keys and values behind those of the past: P and L tokens -> P + L."""
    return [
        (torch.cat([past_k, k], 2), torch.cat([past_v, v], 2))
        for (past_k, past_v), (k, v) in zip(past, new, strict=True)
    ]


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of queries (B, h, L, d) to keys and values; without a mask plain causal."""
    if q.device.type == "cpu":
        return _attend_on_cpu(q, k, v, mask, dropout)
    return _attend(q, k, v, mask, dropout)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`attend` as torch does it."""
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None
    )


def _attend_on_cpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """`attend`, with two detours that make it faster on CPU.

    Under autocast narrow heads attend in fp32, because bf16 is slower there. Long causal attention
    takes a block of queries at a time, because keys that no query of the block may see are then
    not multiplied.
    """
    if q.dtype == torch.bfloat16 and q.shape[-1] < _NARROW:
        with torch.autocast("cpu", enabled=False):
            return _attend_on_cpu(q.float(), k.float(), v.float(), mask, dropout).to(q.dtype)
    L = q.shape[2]
    if mask is not None or L <= 2 * _BLOCK:
        return _attend(q, k, v, mask, dropout)
    causal = causal_mask(L, device=q.device)
    blocks = []
    for start in range(0, L, _BLOCK):
        end = start + _BLOCK
        block_mask = causal[start:end, :end]
        blocks.append(
            _attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], block_mask, dropout)
        )
    return torch.cat(blocks, 2)
