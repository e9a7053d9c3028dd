"""The centralised teacher (CEM): it reads the tokens of the whole team. METHOD.md, section 3.

`FactoredTransformer` is for long episodes and large teams. Joint attention over all tokens of an
episode costs the square of steps times agents. Attention over the team and over time in turns costs
the square of the agents within each step, and the square of the steps for each agent.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import EmbeddingConfig
from maicc.data.team_batch import TeamBatch
from maicc.models.tokens import (
    OBSERVATION,
    Embeddings,
    EncodedSteps,
    TokenEncoders,
    scaled_embedding,
    team_kinds,
    team_mask,
)
from maicc.models.transformer import Block, Transformer, initialise
from maicc.types import Spec


class FactoredTransformer(nn.Module):
    """A transformer whose even layers attend within a step and whose odd layers attend over time.

    Within a step a token sees what METHOD.md, section 3 lets it see there, and the outcome of the
    step before. Over time an agent's observations and actions see that agent's earlier ones, an
    outcome sees earlier outcomes, and a return-to-go earlier ones.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(
                "a factored teacher needs 2 layers at least, over the team and over time"
            )
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        initialise(self, layers)

    def forward(self, x: Tensor, kinds: tuple[int, ...], agent_mask: Tensor) -> Tensor:
        """Outputs of all tokens.

        Args:
            x: (B, T, m, D) the m tokens of each step.
            kinds: (m) kinds of these tokens.
            agent_mask: (B, N) bool, False where an agent is missing.

        Returns:
            (B, T, m, D).
        """
        # within a step, (B, 1, 1 + m, 1 + m): the outcome of the step before stands first, it sees
        # itself, and all see it
        within = team_mask(kinds, 1, agent_mask).expand(len(x), 1, -1, -1)
        within = F.pad(F.pad(within, (1, 0), value=True), (0, 0, 1, 0), value=False)
        within[:, :, 0, 0] = True
        first = kinds.index(OBSERVATION)
        x = self.drop(x)
        for i, block in enumerate(self.blocks):
            x = self._over_time(block, x, first) if i % 2 else self._over_team(block, x, within)
        return self.norm(x)

    def _over_team(self, block: nn.Module, x: Tensor, within: Tensor) -> Tensor:
        """Attends within each step: (B, T, m, D) -> (B, T, m, D)."""
        T = x.shape[1]
        before = F.pad(x[:, :-1, -1:], (0, 0, 0, 0, 1, 0))  # outcomes, (B, T, 1, D)
        tokens = rearrange(torch.cat([before, x], 2), "b t m d -> (b t) m d")
        y, _ = block(tokens, within.repeat_interleave(T, 0), None)
        return rearrange(y[:, 1:], "(b t) m d -> b t m d", t=T)

    def _over_time(self, block: nn.Module, x: Tensor, first: int) -> Tensor:
        """Attends over time: (B, T, m, D) -> (B, T, m, D).

        The agents' tokens begin at `first`. Before and behind them stand the tokens all share.
        """
        B, T = x.shape[:2]
        agents = rearrange(x[:, :, first:-1], "b t (n two) d -> (b n) (t two) d", two=2)
        shared = torch.cat([x[:, :, :first], x[:, :, -1:]], 2)
        agents, _ = block(agents, None, None)
        shared, _ = block(rearrange(shared, "b t s d -> (b s) t d"), None, None)
        agents = rearrange(agents, "(b n) (t two) d -> b t (n two) d", b=B, t=T)
        shared = rearrange(shared, "(b s) t d -> b t s d", b=B)
        return torch.cat([shared[:, :, :first], agents, shared[:, :, first:]], 2)


class Teacher(nn.Module):
    """The centralised model: it sees the tokens of all agents (METHOD.md, section 3)."""

    def __init__(self, spec: Spec, config: EmbeddingConfig) -> None:
        super().__init__()
        self.return_to_go = config.return_to_go
        sizes = (config.width, config.layers, config.heads, config.dropout)
        # tells which observation and which action are the same agent's
        self.agent = scaled_embedding(spec.n_agents, config.width)
        self.factored = config.attention == "factored"
        if self.factored:
            self.transformer: FactoredTransformer | Transformer = FactoredTransformer(*sizes)
        else:
            self.transformer = Transformer(*sizes)

    def forward(self, encoders: TokenEncoders, batch: TeamBatch, taken: EncodedSteps) -> Embeddings:
        """Embeddings of the team's episodes.

        Args:
            encoders: Encoders that teacher and student share.
            batch: B episodes, or windows of them.
            taken: (B, T, N, D) observations and actions of the batch, read by `encoders`.
        """
        T, N = batch.actions.shape[1:]
        kinds = team_kinds(N, self.return_to_go)
        o, a = (part + self.agent.weight[:N] for part in taken)
        p = encoders.encode_outcome(batch.rewards, batch.done, batch.completed).unsqueeze(2)
        tokens = [rearrange([o, a], "two b t n d -> b t (n two) d"), p]
        if self.return_to_go:
            tokens.insert(0, encoders.encode_return_to_go(batch.return_to_go).unsqueeze(2))
        x = torch.cat(tokens, 2) + encoders.encode_step(batch.first, T).unsqueeze(2)
        if self.factored:
            z = self.transformer(x, kinds, batch.agent_mask)
        else:
            visible = team_mask(kinds, T, batch.agent_mask)
            z, _ = self.transformer(rearrange(x, "b t m d -> b (t m) d"), visible)
            z = rearrange(z, "b (t m) d -> b t m d", t=T)
        z = z[:, :, -(2 * N + 1) :]
        return Embeddings(z[:, :, 0:-1:2], z[:, :, 1:-1:2], z[:, :, -1])
