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
from maicc.models.tokens import Embeddings, TokenEncoders
from maicc.types import Spec, Trajectories, UserError


class Keys(NamedTuple):
    """What a memory needs of a trajectory."""

    vectors: Tensor  # (B, T, D) unit norm; the key of the prefix that ends with observation t
    individual_reward: Tensor  # (B, T) predicted reward of this agent at step t


class EmbeddingLosses(NamedTuple):
    """Means over real steps; None where the model has no such loss."""

    action: Tensor
    reward: Tensor
    dynamics: Tensor
    distillation: Tensor | None
    credit: Tensor | None


class Embedding(nn.Module):
    """Encoders and heads shared by teacher and student, and both of them."""

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
        """METHOD.md, sections 3 and 4, and section 12 for local credit."""
        (T, N), slices = batch.actions.shape[1:], batch.slices()
        seen = self.encoders.observation(batch.observations[:, :T])
        each = EncodedObservations(*(rearrange(part, "b t n ... -> (b n) t ...") for part in seen))
        own = self.student(self.encoders, slices, each, batch.first.repeat_interleave(N))
        student = Embeddings(*(rearrange(z, "(b n) t d -> b t n d", n=N) for z in own))
        distillation = credit = None
        if self.teacher is not None:
            predicting = self.teacher(self.encoders, batch, seen)
            targets = (*predicting[:2], predicting.outcome.unsqueeze(2).expand_as(student.outcome))
            distances = [
                self._distance(s, t.detach()) for s, t in zip(student, targets, strict=True)
            ]
            distillation = sum(masked_mean(d, agents_steps(batch)) for d in distances)
        else:
            predicting = student
        if self.credit_head is not None:
            earned = self.individual_reward(own.action, slices, each.embedding)
            earned = rearrange(earned, "(b n) t -> b t n", n=N)
            team = (earned * agents_steps(batch)).sum(2)
            error = (batch.rewards - team) * self.encoders.scale
            # what followed the last step of a window is not known
            followed = F.pad(batch.step_mask[:, 1:], (0, 1)) | batch.done.bool()
            credit = masked_mean(error**2, batch.step_mask & followed)
        return EmbeddingLosses(*self._predictions(batch, predicting, seen), distillation, credit)

    def total(self, losses: EmbeddingLosses) -> Tensor:
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
        if self.config.distillation == "mse":
            return F.mse_loss(student, teacher, reduction="none").mean(-1)
        return F.kl_div(
            student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)

    def _predictions(
        self, batch: TeamBatch, z: Embeddings, seen: EncodedObservations
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action, reward and dynamics losses, from the teacher's or (MAICC-S) the student's z."""
        T, N = batch.actions.shape[1:]
        real, each_real = batch.step_mask, agents_steps(batch)
        rewards = batch.rewards * self.encoders.scale
        logits = self.action_head(z.observation, seen.attack_targets)
        logits = rearrange(logits, "b t n a -> b a t n")
        action = F.cross_entropy(logits, batch.actions, reduction="none")

        predicted = self.reward_head(z.action).squeeze(-1)  # (B, T, N)
        if self.teacher is not None:
            predicted = (predicted * each_real).sum(2)
            reward = masked_mean((rewards - predicted) ** 2, real)
        else:  # without the team's view each agent regresses the whole team reward
            reward = masked_mean((rewards.unsqueeze(2) - predicted) ** 2, each_real)

        outcome = z.outcome if z.outcome.ndim == 4 else repeat(z.outcome, "b t d -> b t n d", n=N)
        now, after = batch.observations[:, :T], batch.observations[:, 1:]
        dynamics = self.dynamics_head(outcome, seen.embedding, now, after)
        return masked_mean(action, each_real), reward, masked_mean(dynamics, each_real)

    def individual_reward(self, z_action: Tensor, slices: Trajectories, here: Tensor) -> Tensor:
        """Student's action outputs and what it sees `here`, (B, T, D) each -> (B, T) predicted
        reward of that agent.

        The local head also sees what the agent saw next (nothing after its last step), but never
        the team reward: all of it is the agent's own information, and none tells the others' share.
        """
        if self.credit_head is None:
            return self.reward_head(z_action).squeeze(-1) / self.encoders.scale
        after = F.pad(here[:, 1:] * slices.step_mask[:, 1:, None], (0, 0, 0, 1))
        predicted = self.credit_head(torch.cat([z_action, after], -1)).squeeze(-1)
        return predicted / self.encoders.scale

    @torch.no_grad()
    def keys(self, slices: Trajectories) -> Keys:
        """Keys of every prefix of the slices (B, T, ...), by one pass in evaluation mode."""
        was_training = self.training
        self.eval()
        seen = self.encoders.observation(slices.observations)
        z = self.student(self.encoders, slices, seen)
        self.train(was_training)
        before = F.pad((z.action + z.outcome)[:, :-1], (0, 0, 1, 0))  # (B, T, D), 0 at step 0
        real = slices.step_mask
        return Keys(
            F.normalize(z.observation + before, dim=-1),
            self.individual_reward(z.action, slices, seen.embedding) * real,
        )
