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

from maicc.config import EmbeddingConfig, OptimiserConfig
from maicc.data.team_batch import TeamBatch, agents_steps, masked_mean
from maicc.models.batching import each_in_order
from maicc.models.heads import ActionHead, DynamicsHead
from maicc.models.observations import Seen
from maicc.models.teacher import FactoredTransformer
from maicc.models.tokens import TokenEncoders, see, table, team_kinds
from maicc.models.transformer import KeyValues, Transformer, append, causal_mask
from maicc.training.fit import MaiccModule
from maicc.types import Spec, Trajectories, UserError


class Embeddings(NamedTuple):
    """Outputs at the observation, action and outcome tokens."""

    observation: Tensor  # teacher (B, T, N, D); student (B, T, D)
    action: Tensor  # like observation
    outcome: Tensor  # (B, T, D)


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


class Teacher(nn.Module):
    """Centralised: sees observations and actions of all agents (METHOD.md, section 3)."""

    def __init__(self, spec: Spec, config: EmbeddingConfig) -> None:
        super().__init__()
        self.return_to_go = config.return_to_go
        sizes = (config.width, config.layers, config.heads, config.dropout)
        # which observation and which action are one agent's
        self.agent = table(spec.n_agents, config.width)
        self.factored = config.attention == "factored"
        if self.factored:
            self.transformer = FactoredTransformer(*sizes)
        else:
            self.transformer = Transformer(*sizes)

    def forward(self, encoders: TokenEncoders, batch: TeamBatch, seen: Seen) -> Embeddings:
        """What the team has `seen`: (B, T, N, ...)."""
        T, N = batch.actions.shape[1:]
        kinds = team_kinds(N, self.return_to_go)
        o = seen.here + self.agent.weight[:N]
        a = encoders.encode_action(batch.actions, seen) + self.agent.weight[:N]
        p = encoders.encode_outcome(batch.rewards, batch.done, batch.completed).unsqueeze(2)
        tokens = [rearrange([o, a], "two b t n d -> b t (n two) d"), p]
        if self.return_to_go:
            tokens.insert(0, encoders.encode_return_to_go(batch.return_to_go).unsqueeze(2))
        x = torch.cat(tokens, 2) + encoders.encode_step(batch.first, T).unsqueeze(2)
        if self.factored:
            z = self.transformer(x, kinds, batch.agent_mask)
        else:
            visible = see(kinds, T, batch.agent_mask)
            z, _ = self.transformer(rearrange(x, "b t m d -> b (t m) d"), visible)
            z = rearrange(z, "b (t m) d -> b t m d", t=T)
        z = z[:, :, -(2 * N + 1) :]
        return Embeddings(z[:, :, 0:-1:2], z[:, :, 1:-1:2], z[:, :, -1])


class Student(nn.Module):
    """Decentralised: sees one agent's own tokens, causally (METHOD.md, section 4)."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.return_to_go = config.return_to_go
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout)

    def forward(
        self,
        encoders: TokenEncoders,
        slices: Trajectories,
        seen: Seen,
        first: Tensor | None = None,
    ) -> Embeddings:
        """Slices (B, T, ...) and what they have `seen`, (B, T, ...), from their step `first` (B,)
        on; from the start by default. Outputs behind a slice's last step mean nothing."""
        x = self.tokens(encoders, slices, seen, first)
        T, m = x.shape[1:3]
        x, length = rearrange(x, "b t m d -> b (t m) d"), slices.step_mask.sum(1).clamp(min=1)

        def read(rows: Tensor) -> Tensor:
            tokens = m * int(length[rows].max())
            z, _ = self.transformer(x[rows, :tokens])
            return F.pad(z, (0, 0, 0, m * T - tokens))

        z = rearrange(each_in_order(length, read), "b (t m) d -> b t m d", t=T)
        return Embeddings(z[:, :, -3], z[:, :, -2], z[:, :, -1])

    def tokens(
        self, encoders: TokenEncoders, slices: Trajectories, seen: Seen, first: Tensor | None
    ) -> Tensor:
        """(B, T, m, D): [g] o a p of each step."""
        kinds = [
            seen.here,
            encoders.encode_action(slices.actions, seen),
            encoders.encode_outcome(slices.rewards, slices.done, slices.completed),
        ]
        if self.return_to_go:
            kinds.insert(0, encoders.encode_return_to_go(slices.return_to_go))
        B, T = slices.actions.shape
        if first is None:
            first = torch.zeros(B, dtype=torch.long, device=slices.actions.device)
        return torch.stack(kinds, 2) + encoders.encode_step(first, T).unsqueeze(2)


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
        each = Seen(*(rearrange(part, "b t n ... -> (b n) t ...") for part in seen))
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
            earned = self.individual_reward(own.action, slices, each.here)
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
        self, batch: TeamBatch, z: Embeddings, seen: Seen
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action, reward and dynamics losses, from the teacher's or (MAICC-S) the student's z."""
        T, N = batch.actions.shape[1:]
        real, each_real = batch.step_mask, agents_steps(batch)
        rewards = batch.rewards * self.encoders.scale
        logits = self.action_head(z.observation, seen.targets)
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
        dynamics = self.dynamics_head(outcome, seen.here, now, after)
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
            self.individual_reward(z.action, slices, seen.here) * real,
        )


class RunningPrefix:
    """The student's view of trajectories under way, extended step by step.

    Gives the same vectors as `Embedding.keys` on the finished trajectories (of which, if
    return-to-go is fed, the true one is known only then).
    """

    def __init__(self, embedding: Embedding) -> None:
        self.embedding = embedding
        self.past: KeyValues | None = None
        self.step = 0
        self._seen: Seen | None = None  # at the running step
        self._waiting: Tensor | None = None  # tokens of the last action and its outcome

    @torch.no_grad()
    def query(self, observations: Tensor, return_to_go: Tensor) -> Tensor:
        """The prefix that ends with `observations` (B, O), return-to-go (B,): (B, D) unit norm."""
        e = self.embedding.encoders
        self._seen = e.observation(observations)
        tokens = [self._seen.here]
        if self.embedding.student.return_to_go:
            tokens.insert(0, e.encode_return_to_go(return_to_go))
        new = torch.stack(tokens, 1) + e.step.weight[self.step]
        if self._waiting is None:
            return F.normalize(self._extend(new)[:, -1], dim=-1)
        z = self._extend(torch.cat([self._waiting, new], 1))
        return F.normalize(z[:, -1] + z[:, 0] + z[:, 1], dim=-1)

    @torch.no_grad()
    def advance(self, actions: Tensor, rewards: Tensor, done: Tensor, completed: Tensor) -> None:
        """The step's action and outcome, (B,) each; they are read with the next observation."""
        e = self.embedding.encoders
        tokens = [
            e.encode_action(actions, self._seen),
            e.encode_outcome(rewards, done, completed),
        ]
        self._waiting = torch.stack(tokens, 1) + e.step.weight[self.step]
        self.step += 1

    def _extend(self, tokens: Tensor) -> Tensor:
        past = self.past[0][0].shape[2] if self.past else 0
        mask = causal_mask(tokens.shape[1], past, tokens.device)
        z, own = self.embedding.student.transformer(tokens, mask, self.past)
        self.past = append(self.past, own)
        return z


class EmbeddingModule(MaiccModule):
    """Trains teacher and student together.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        network: Teacher and student.
        optimiser: AdamW and its schedule.
    """

    kind = "embedding"
    config_type = EmbeddingConfig

    def __init__(
        self,
        spec: Spec | None = None,
        network: EmbeddingConfig = EmbeddingConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, network, optimiser)
        self.net = Embedding(self.spec, network)

    def training_step(self, batch: TeamBatch, batch_index: int) -> Tensor:
        losses = self.net.losses(batch)
        shown = {name: loss for name, loss in losses._asdict().items() if loss is not None}
        self.log_dict(shown, prog_bar=True)
        total = self.net.total(losses)
        self.log("loss", total)
        return total
