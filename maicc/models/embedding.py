"""Teacher, student and their losses: METHOD.md, sections 3 to 5.

The centralised teacher (CEM) reads the tokens of the whole team. The decentralised student (DEM)
reads one agent's own tokens and is distilled towards the teacher. Both are causal, so one pass over
an episode gives the embedding of every prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from maicc.config import EmbeddingConfig
from maicc.data.team_batch import TeamBatch, agents_steps, masked_mean
from maicc.models.heads import ActionHead, DynamicsHead
from maicc.models.observations import EncodedObservations
from maicc.models.student import Student
from maicc.models.teacher import Teacher
from maicc.models.tokens import Embeddings, EncodedSteps, TokenEncoders
from maicc.types import Spec, Trajectories, UserError


class Keys(NamedTuple):
    """Keys and rewards of trajectories, as a memory needs them."""

    vectors: Tensor  # (B, T, D) unit norm; the key of the prefix that ends with observation t
    individual_reward: Tensor  # (B, T) predicted reward of this agent at step t


class EmbeddingLosses(NamedTuple):
    """Losses, as means over the steps that were played; None where the model has no such loss."""

    action: Tensor
    reward: Tensor
    dynamics: Tensor
    distillation: Tensor | None
    credit: Tensor | None


class Embedding(nn.Module):
    """The embedding model: teacher, student, and the encoders and heads they share."""

    training_only = ("teacher", "action_head", "dynamics_head")

    def __init__(self, spec: Spec, config: EmbeddingConfig) -> None:
        super().__init__()
        if config.credit == "teacher" and not config.teacher:
            raise UserError("credit=teacher needs a teacher; set credit=local, or teacher=true")
        width = config.width
        self.config = config
        self.encoders = TokenEncoders(spec, width, config.encoder, return_to_go=config.return_to_go)
        self.student = Student(config)
        self.teacher = Teacher(spec, config) if config.teacher else None
        self.action_head = ActionHead(spec, width, config.encoder)
        self.reward_head = nn.Linear(width, 1)
        self.dynamics_head = DynamicsHead(spec, width, config.encoder)
        self.credit_head = None
        if config.credit == "local":
            self.credit_head = nn.Sequential(
                nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1)
            )

    def losses(self, batch: TeamBatch) -> EmbeddingLosses:
        """Losses of a batch: METHOD.md, sections 3 and 4, and section 12 for local credit."""
        (T, N), slices = batch.actions.shape[1:], batch.slices()
        encoded = self.encoders.observation(batch.observations[:, :T])  # (B, T, N, ...)
        taken = self._taken(batch.actions, encoded)
        taken_slices = EncodedSteps(*(rearrange(part, "b t n d -> (b n) t d") for part in taken))
        first = batch.first.repeat_interleave(N)
        z_slices = self.student(self.encoders, slices, taken_slices, first)  # (B N, T, D)
        student = Embeddings(*(rearrange(z, "(b n) t d -> b t n d", n=N) for z in z_slices))
        distillation = credit = None
        if self.teacher is not None:
            z = self.teacher(self.encoders, batch, taken)
            targets = (z.observation, z.action, z.outcome.unsqueeze(2).expand_as(student.outcome))
            observation, action, outcome = (
                masked_mean(self._distance(s, t.detach()), agents_steps(batch))
                for s, t in zip(student, targets, strict=True)
            )
            distillation = observation + action + outcome
        else:
            z = student
        if self.credit_head is not None:
            individual = self.individual_reward(z_slices.action, slices, taken_slices.observation)
            individual = rearrange(individual, "(b n) t -> b t n", n=N)
            team = (individual * agents_steps(batch)).sum(2)
            error = (batch.rewards - team) * self.encoders.scale
            # the last step of a window is left out: the observation behind it is not in the window
            has_next = F.pad(batch.step_mask[:, 1:], (0, 1)) | batch.done.bool()
            credit = masked_mean(error**2, batch.step_mask & has_next)
        return EmbeddingLosses(*self._predictions(batch, z, encoded), distillation, credit)

    def _taken(self, actions: Tensor, encoded: EncodedObservations) -> EncodedSteps:
        """Encodes actions (...,), and joins them to the observations that they were taken at."""
        return EncodedSteps(encoded.embedding, self.encoders.encode_action(actions, encoded))

    def total(self, losses: EmbeddingLosses) -> Tensor:
        """Weighted sum of the losses, with the weights of the configuration."""
        c = self.config
        total = (
            c.action_weight * losses.action
            + c.reward_weight * losses.reward
            + c.dynamics_weight * losses.dynamics
        )
        if losses.distillation is not None:
            total = total + c.distillation_weight * losses.distillation
        if losses.credit is not None:
            total = total + losses.credit
        return total

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Distance of the student's outputs (..., D) from the teacher's -> (...,)."""
        if self.config.distillation == "mse":
            return F.mse_loss(student, teacher, reduction="none").mean(-1)
        return F.kl_div(
            student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)

    def _predictions(
        self, batch: TeamBatch, z: Embeddings, encoded: EncodedObservations
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action, reward and dynamics losses, from the teacher's z or (MAICC-S) the student's."""
        T, N = batch.actions.shape[1:]
        team_mask, agents_mask = batch.step_mask, agents_steps(batch)
        rewards = batch.rewards * self.encoders.scale
        logits = self.action_head(z.observation, encoded.attack_targets)
        logits = rearrange(logits, "b t n a -> b a t n")
        action = F.cross_entropy(logits, batch.actions, reduction="none")

        predicted = self.reward_head(z.action).squeeze(-1)  # (B, T, N)
        if self.teacher is not None:
            predicted = (predicted * agents_mask).sum(2)
            reward = masked_mean((rewards - predicted) ** 2, team_mask)
        else:  # without the team's view each agent regresses the whole team reward
            reward = masked_mean((rewards.unsqueeze(2) - predicted) ** 2, agents_mask)

        outcome = z.outcome if z.outcome.ndim == 4 else repeat(z.outcome, "b t d -> b t n d", n=N)
        before, after = batch.observations[:, :T], batch.observations[:, 1:]
        dynamics = self.dynamics_head(outcome, encoded.embedding, before, after)
        return masked_mean(action, agents_mask), reward, masked_mean(dynamics, agents_mask)

    def individual_reward(
        self, z_action: Tensor, slices: Trajectories, observations: Tensor
    ) -> Tensor:
        """Predicts the reward of the agent of each slice at each step: (B, T).

        The local head also sees the agent's next observation (zero after its last step), but never
        the team reward. All of it is the agent's own information, and none tells the others' share.

        Args:
            z_action: (B, T, D) outputs of the student at the actions.
            observations: (B, T, D) as encoded.
        """
        if self.credit_head is None:
            return self.reward_head(z_action).squeeze(-1) / self.encoders.scale
        after = F.pad(observations[:, 1:] * slices.step_mask[:, 1:, None], (0, 0, 0, 1))
        predicted = self.credit_head(torch.cat([z_action, after], -1)).squeeze(-1)
        return predicted / self.encoders.scale

    @torch.no_grad()
    def keys(self, slices: Trajectories) -> Keys:
        """Keys of every prefix of the slices (B, T, ...), by one pass in evaluation mode."""
        was_training = self.training
        self.eval()
        # not `encode_taken`: not even the rounding of an observation may depend on the action after
        encoded = self.encoders.observation(slices.observations)
        taken = self._taken(slices.actions, encoded)
        z = self.student(self.encoders, slices, taken)
        self.train(was_training)
        before = F.pad((z.action + z.outcome)[:, :-1], (0, 0, 1, 0))  # (B, T, D), 0 at step 0
        return Keys(
            F.normalize(z.observation + before, dim=-1),
            self.individual_reward(z.action, slices, taken.observation) * slices.step_mask,
        )
