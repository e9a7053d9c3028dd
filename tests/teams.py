"""Teams of MAICC in lock step beside agents that act alone."""

from __future__ import annotations

import torch

from maicc.baselines.trained import TrainedMAICC
from maicc.config import DecisionConfig, MaiccAdapt, MemoryConfig
from maicc.envs import BatchEnv, get_family
from maicc.models.decision import DecisionTransformer
from maicc.teams.team import Team
from maicc.types import Spec

FAMILY = get_family("lbf_7x7")
SEEDS = [11, 12, 13]


def make_env(n: int = 3) -> BatchEnv:
    """So many held-out tasks side by side."""
    return BatchEnv([FAMILY.make_env(task) for task in FAMILY.draw_tasks(n, 0)], "sum", 15)


def check_lock_step(models: TrainedMAICC, memory: MemoryConfig, episodes: int) -> None:
    """Asserts that the agents of three runs act as each does alone, given what it observed."""
    env, log = make_env(), []
    together = models.team(SEEDS, MaiccAdapt(episodes, memory=memory))
    for episode in range(episodes):
        now = env.reset([episode] * 3)
        while not now.done.all():
            before = now
            actions = together.act(now.observations, now.action_mask)
            now = env.step(actions)
            together.observe(actions, now.rewards, now.done)
            log.append((before, actions, now))
    for run, seed in enumerate(SEEDS):
        for agent in range(3):
            alone = Team(
                models.spec, models.embedding, models.decision, models.offline, memory, [seed],
                episodes=episodes, agents=[agent],
            )  # fmt: skip
            for before, actions, after in log:
                if before.done[run]:
                    continue
                own = alone.act(before.observations[run, [agent]], before.action_mask[run, [agent]])
                assert own[0] == actions[run, agent]
                alone.observe(own, after.rewards[run], after.done[run])
            assert alone.episode == episodes


def untrained(spec: Spec, **changes) -> DecisionTransformer:
    """An untrained model in which what is looked at matters."""
    torch.manual_seed(0)
    paper = {"record": 0, "labels": "behaviour"}
    small = DecisionConfig(width=16, layers=2, heads=2, **{**paper, **changes})
    model = DecisionTransformer(spec, small).eval().requires_grad_(False)
    for block in model.transformer.blocks:
        torch.nn.init.normal_(block.attention.qkv.weight, std=0.3)
        torch.nn.init.normal_(block.attention.project.weight, std=0.3)
    return model
