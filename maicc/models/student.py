"""The decentralised student (DEM): one agent reads its own tokens. METHOD.md, section 4."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import EmbeddingConfig
from maicc.models.batching import map_by_length, take_rows
from maicc.models.tokens import Embeddings, EncodedSteps, TokenEncoders
from maicc.models.transformer import Transformer
from maicc.types import Trajectories


class Student(nn.Module):
    """The decentralised model: it sees one agent's own tokens, causally (METHOD.md, section 4)."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.return_to_go = config.return_to_go
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)

    def forward(
        self,
        encoders: TokenEncoders,
        slices: Trajectories,
        taken: EncodedSteps,
        first: Tensor | None = None,
    ) -> Embeddings:
        """Embeddings of single agents' slices.

        Args:
            encoders: Encoders that teacher and student share.
            slices: (B, T, ...).
            taken: (B, T, D) observations and actions of the slices, read by `encoders`.
            first: (B,) number of each slice's first step; 0 by default.

        Returns:
            (B, T, D) each. Outputs behind a slice's last step mean nothing.
        """
        x = self.tokens(encoders, slices, taken, first)
        T, m = x.shape[1:3]
        x, length = rearrange(x, "b t m d -> b (t m) d"), slices.step_mask.sum(1).clamp(min=1)

        def read(rows: Tensor) -> Tensor:
            tokens = m * int(length[rows].max())
            z, _ = self.transformer(take_rows(x[:, :tokens], rows))
            return F.pad(z, (0, 0, 0, m * T - tokens))

        z = rearrange(map_by_length(length, read), "b (t m) d -> b t m d", t=T)
        return Embeddings(z[:, :, -3], z[:, :, -2], z[:, :, -1])

    def tokens(
        self,
        encoders: TokenEncoders,
        slices: Trajectories,
        taken: EncodedSteps,
        first: Tensor | None,
    ) -> Tensor:
        """Tokens (B, T, m, D) of the slices: [g] o a p of each step. See `forward`."""
        kinds = [
            *taken,
            encoders.encode_outcome(slices.rewards, slices.done, slices.completed),
        ]
        if self.return_to_go:
            kinds.insert(0, encoders.encode_return_to_go(slices.return_to_go))
        B, T = slices.actions.shape
        if first is None:
            first = torch.zeros(B, dtype=torch.long, device=slices.actions.device)
        return torch.stack(kinds, 2) + encoders.encode_step(first, T).unsqueeze(2)
