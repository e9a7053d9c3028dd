"""Kinds of tokens, their encoders, their order inside a step, and which may look at which."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.models.observations import (
    HIDDEN,
    EncodedObservations,
    layout_of,
    observation_encoder,
)
from maicc.types import Spec

RETURN_TO_GO, OBSERVATION, ACTION, OUTCOME = range(4)  # the order inside a step


class EncodedSteps(NamedTuple):
    """What an agent saw and did at steps that are over, as encoded."""

    observation: Tensor  # (..., D)
    action: Tensor  # (..., D)


class TokenEncoders(nn.Module):
    """One encoder per kind of token, and the embedding of the step number.

    METHOD.md, section 2: actions by a table, outcome and return-to-go by a linear layer. Rewards
    and returns are read on a scale on which the family's returns span 2.
    """

    def __init__(
        self, spec: Spec, width: int, encoder: str = "flat", *, return_to_go: bool = True
    ) -> None:
        super().__init__()
        low, high = spec.bounds
        self.scale = 2.0 / (high - low)
        self.observation = observation_encoder(spec, width, encoder)
        self.target = None
        if encoder == "entities":
            kinds = layout_of(spec).attack + 1  # one for all attacks
            self.action = scaled_embedding(kinds, width)
            self.target = nn.Linear(HIDDEN, width, bias=False)
        else:
            self.action = scaled_embedding(spec.n_actions, width)
        self.outcome = nn.Linear(3, width)
        self.return_to_go = nn.Linear(1, width) if return_to_go else None
        self.step = scaled_embedding(spec.max_steps, width)

    def encode_action(self, actions: Tensor, encoded: EncodedObservations) -> Tensor:
        """Encodes actions (...,) of agents -> (..., D).

        Args:
            encoded: The observation (...,) each action was chosen at. With entities an attack is
                read as the one it is aimed at.
        """
        if self.target is None:
            return self.action(actions)
        return self._aimed(actions, encoded.target(self._attack(actions)))

    def encode_taken(self, observations: Tensor, actions: Tensor) -> EncodedSteps:
        """Encodes observations (..., O) and the actions (...,) taken at them.

        Of entities only oneself and the target of the action are read to the end. These are read
        first, so that an action may change how its observation is rounded.
        """
        if self.target is None:
            return EncodedSteps(self.observation(observations).embedding, self.action(actions))
        encoded = self.observation(observations, self._attack(actions))
        action = self._aimed(actions, encoded.attack_targets.squeeze(-2))
        return EncodedSteps(encoded.embedding, action)

    def _attack(self, actions: Tensor) -> Tensor:
        """Numbers the attacks among actions (...,); those that are none are below 0."""
        return actions - (self.action.num_embeddings - 1)

    def _aimed(self, actions: Tensor, target: Tensor) -> Tensor:
        """Encodes actions (...,), of which attacks are aimed at targets (..., HIDDEN)."""
        assert self.target is not None
        kind = self.action(actions.clamp(max=self.action.num_embeddings - 1))
        return kind + self.target(target)

    def encode_step(self, first: Tensor, steps: int) -> Tensor:
        """Encodes the numbers of so many steps from `first` (B,) on -> (B, T, D)."""
        return self.step(first[:, None] + torch.arange(steps, device=first.device))

    def encode_outcome(self, rewards: Tensor, done: Tensor, completed: Tensor) -> Tensor:
        """Encodes the outcomes of steps, (...,) each -> (..., D)."""
        return self.outcome(torch.stack([rewards * self.scale, done, completed], -1))

    def encode_return_to_go(self, return_to_go: Tensor) -> Tensor:
        """Encodes returns-to-go (...,) -> (..., D)."""
        assert self.return_to_go is not None
        return self.return_to_go((return_to_go * self.scale).unsqueeze(-1))


def scaled_embedding(entries: int, width: int) -> nn.Embedding:
    """An embedding table on the scale of the other encoders' outputs.

    On a much smaller scale attention takes thousands of steps to find out which step a token
    belongs to.
    """
    embedding = nn.Embedding(entries, width)
    nn.init.normal_(embedding.weight, std=0.5)
    return embedding


def team_kinds(n_agents: int, with_return_to_go: bool) -> tuple[int, ...]:
    """Kinds of one step's tokens in the teacher's order: [g] o_1 a_1 ... o_n a_n p."""
    head = (RETURN_TO_GO,) if with_return_to_go else ()
    return (*head, *(OBSERVATION, ACTION) * n_agents, OUTCOME)


def team_mask(kinds: tuple[int, ...], steps: int, agent_mask: Tensor) -> Tensor:
    """Mask like `rank_mask`, in which nobody looks at agents that are missing from a team.

    Args:
        agent_mask: (B, N) bool, False where an agent is missing.

    Returns:
        (L, L) bool, or (B, 1, L, L) where an agent is missing.
    """
    mask = rank_mask(kinds, steps, agent_mask.device)
    if agent_mask.all():
        return mask
    token_mask = agent_mask.repeat_interleave(2, 1)  # observation and action of each agent
    token_mask = F.pad(
        token_mask, (kinds.index(OBSERVATION), 1), value=True
    )  # (B, tokens of a step)
    return mask & token_mask.repeat(1, steps)[:, None, None]


@lru_cache(maxsize=64)
def rank_mask(kinds: tuple[int, ...], steps: int, device: torch.device | None = None) -> Tensor:
    """Mask (L, L) bool, L = steps * len(kinds): token q looks at token k if rank(k) <= rank(q).

    rank = 4 * step + kind (METHOD.md, section 3): causal over steps, and inside a step an
    observation sees all observations but no action, and an action sees all of both.
    """
    step = torch.arange(steps, device=device).repeat_interleave(len(kinds))
    rank = 4 * step + torch.tensor(kinds, device=device).repeat(steps)
    return rank[None, :] <= rank[:, None]


class Embeddings(NamedTuple):
    """Outputs at the observation, action and outcome tokens."""

    observation: Tensor  # teacher (B, T, N, D); student (B, T, D)
    action: Tensor  # like observation
    outcome: Tensor  # (B, T, D)
