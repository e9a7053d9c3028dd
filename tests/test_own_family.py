"""A family with all that is allowed and unusual, through every command's work.

Rewards are negative, bounds unknown, task parameters NumPy numbers; masks are in `infos` and forbid
action 0; one agent sees less, has fewer actions and leaves early; its last mask allows nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.data.behaviour import play
from maicc.data.contract import check_contract
from maicc.data.dataset import EpisodeFile
from maicc.envs import TaskFamily, batch_env, register, registry, sample_tasks
from maicc.evaluation.adapt import play_episode
from maicc.evaluation.credit import credit
from maicc.evaluation.trained import load_team
from maicc.experiments.benchmark import benchmark
from maicc.experiments.run import run
from maicc.files import ModelFiles
from maicc.types import UserError
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow

STEPS, LEAVES = 6, 3


class Debts(ParallelEnv):
    """Each agent pays for its distance from the goal; `near` leaves after three steps."""

    metadata = {"name": "debts"}  # noqa: RUF012
    render_mode = None

    def __init__(self, goal: int) -> None:
        assert isinstance(goal, int)
        self.goal, self.possible_agents = goal, ["far", "near"]
        self._sight = {a: spaces.Box(-9, 9, (n,), np.float32) for a, n in (("far", 2), ("near", 1))}
        self._moves = {"far": spaces.Discrete(4), "near": spaces.Discrete(3)}

    def observation_space(self, agent):
        return self._sight[agent]

    def action_space(self, agent):
        return self._moves[agent]

    def reset(self, seed=None, options=None):
        self.agents, self.steps = ["far", "near"], 0
        far, near = np.random.default_rng(seed).integers(-2, 3, 2).tolist()
        self.at = {"far": far, "near": near}
        return self._see(self.agents), self._infos(self.agents)

    def step(self, actions):
        assert set(actions) == set(self.agents)
        assert all(actions.values()), "action 0 is illegal"
        before, self.steps = list(self.agents), self.steps + 1
        for agent, action in actions.items():
            self.at[agent] = int(np.clip(self.at[agent] + action - 2, -5, 5))
        over = {a: self.steps == (STEPS if a == "far" else LEAVES) for a in before}
        self.agents = [a for a in before if not over[a]]
        return (
            self._see(before),
            {a: -float(abs(self.at[a] - self.goal)) for a in before},
            dict.fromkeys(before, False) | {a: a == "near" for a in before if over[a]},
            {a: over[a] and a == "far" for a in before},
            self._infos(before),
        )

    def _see(self, agents):
        return {
            a: np.array([self.at[a], self.steps][: 2 if a == "far" else 1], np.float32)
            for a in agents
        }

    def _infos(self, agents):
        return {
            a: {"action_mask": np.arange(4 if a == "far" else 3) * (a in self.agents) > 0}
            for a in agents
        }


def expert(env, rng):
    here = env.unwrapped
    most = {"far": 3, "near": 2}
    return {a: int(np.clip(here.goal - here.at[a] + 2, 1, most[a])) for a in here.agents}


training, held_out = sample_tasks(lambda rng: {"goal": rng.integers(-5, 6)}, 4, 3)


@pytest.fixture
def family():
    yield register(TaskFamily("debts", Debts, training, held_out, STEPS, expert=expert))
    registry._registered.pop("debts")


def test_it_keeps_its_contract(family):
    verdicts = list(check_contract(family))
    assert all(v.fine for v in verdicts), [v for v in verdicts if not v.fine]


def test_the_whole_way(family, tmp_path):
    config = tiny_config(family="debts")
    run(config, tmp_path / "run")
    dataset = EpisodeFile(tmp_path / "run" / "episodes.h5")
    episodes, spec = dataset.read(), dataset.spec
    returns = episodes.rewards.sum(1)
    assert spec.bounds == (pytest.approx(returns.min()), pytest.approx(returns.max()))
    assert (episodes.length == STEPS).all()
    assert (episodes.actions[:, LEAVES:, 1] == 0).all()
    assert episodes.action_mask[:, LEAVES:STEPS, 1].sum(-1).max() == 1
    assert (episodes.actions[:, :LEAVES] > 0).all()
    assert [task.to_json() for task in dataset.tasks] == [
        task.to_json() for task in family.training_tasks
    ]
    assert "step_correlation" in credit(ModelFiles.in_folder(tmp_path / "run"), episodes=2)

    team = load_team(tmp_path / "run")
    env = batch_env(family, family.held_out_tasks[:1])
    played = [play_episode(team, env, [seed])[0] for seed in range(3)]
    assert team.returns[0] == pytest.approx(played)  # also where they are beyond the bounds

    table = benchmark(
        config, {"default": {}}, seeds=2, tasks=2, out=tmp_path / "bench", behaviours=True
    )
    rows = {row["variant"]: row for row in table["rows"]}
    assert {"default", "behaviour: expert, aim 100%", "behaviour: expert, aim 0%"} == set(rows)
    again = benchmark(
        config, {"default": {}}, seeds=2, tasks=2, out=tmp_path / "bench", behaviours=True
    )
    assert json.dumps(again) == json.dumps(table)


def test_who_has_left_has_no_label(family):
    careless = replace(family, expert=None, behaviours=lambda seen, mask, agent, rng: 2)
    episodes = play(careless, careless.training_tasks[0], 0.0, [(0, 0)], "policy0")
    assert (episodes.expert_actions[0, :STEPS, 0] == 2).all()
    assert episodes.expert_actions[0, :, 1].tolist() == [2] * LEAVES + [-1] * (STEPS - LEAVES)


def test_another_family_of_that_name_is_not_taken_for_this_one(family, tmp_path):
    config = tiny_config(family="debts")
    config.embedding.steps = config.decision.steps = 1
    run(config, tmp_path / "run")
    register(replace(family, training=[{"goal": 4}, {"goal": -4}], held_out=[{"goal": 0}]))
    with pytest.raises(UserError, match="made for other training tasks"):
        run(config, tmp_path / "run")
