"""Lock step, and each way an environment can break the contract."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.envs import BatchEnv, get_family
from maicc.types import UserError


class Toy(ParallelEnv):
    """Two agents, three actions, three steps; every part can be broken."""

    metadata = {"name": "toy"}  # noqa: RUF012

    def __init__(self, agents=("a", "b"), size=2, seen=None, mask=3, reward=1.0, wrapped=False,
                 action=None, extra=None, leaves_at=None, terminates=False,
                 absent=None, seen_value=None, blind=False):  # fmt: skip
        self.possible_agents, self.agents = list(agents), []
        self.size, self.seen = size, size if seen is None else seen
        self.mask, self.reward, self.wrapped = mask, reward, wrapped
        self.action, self.extra = action or spaces.Discrete(3), extra
        self.leaves_at, self.terminates = leaves_at, terminates
        self.absent, self.seen_value, self.blind = absent, seen_value, blind

    def observation_space(self, agent):
        box = spaces.Box(-1, 9, (self.size,), np.float32)
        if not self.wrapped:
            return box
        return spaces.Dict({"observation": box, "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent):
        return self.action

    def _observe(self):
        value = self.t if self.seen_value is None else self.seen_value
        seen = np.full(self.seen, value, np.float32)
        mask = np.array([1, 0, 1], np.int8)[: self.mask]
        if self.wrapped:
            seen = {"observation": seen, "action_mask": mask}
        names = [*self.agents, *([self.extra] if self.extra else [])]
        return {name: seen for name in names if name != self.absent}

    def _infos(self):
        mask = np.array([1, 1, 0], np.int8)[: self.mask] * (not self.blind)
        return {a: {} if self.wrapped else {"action_mask": mask} for a in self.agents}

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return self._observe(), self._infos()

    def step(self, actions):
        self.t += 1
        over = self.t == 3
        if self.t == self.leaves_at:
            self.agents = self.agents[:1]
        result = (
            self._observe(),
            dict.fromkeys(self.agents, self.reward),
            dict.fromkeys(self.agents, over and self.terminates),
            dict.fromkeys(self.agents, over and not self.terminates),
            self._infos(),
        )
        if over:
            self.agents = []
        return result


def test_lock_step_equals_each_environment_alone():
    family, seeds = get_family("lbf_7x7"), [5, 6, 7]
    tasks = family.draw_tasks(3, seed=0)
    together = BatchEnv([family.make_env(t) for t in tasks])
    alone = [BatchEnv([family.make_env(t)]) for t in tasks]
    rng = np.random.default_rng(0)
    now, each = together.reset(seeds), [e.reset([s]) for e, s in zip(alone, seeds, strict=True)]
    for _ in range(15):
        actions = rng.integers(6, size=(3, 3))
        for b in range(3):
            for part, single in zip(now, each[b], strict=True):
                assert np.array_equal(part[b], single[0])
        now = together.step(actions)
        each = [e.step(actions[b : b + 1]) for b, e in enumerate(alone)]


@pytest.mark.parametrize(("wrapped", "mask"), [(False, [1, 1, 0]), (True, [1, 0, 1])])
def test_masks_from_infos_and_from_dict_observations(wrapped, mask):
    now = BatchEnv([Toy(wrapped=wrapped)]).reset([0])
    assert now.action_mask[0].tolist() == [mask, mask]
    assert now.observations.shape == (1, 2, 2)


@pytest.mark.parametrize(("how", "paid"), [("sum", 2.0), ("mean", 1.0), ("shared", 1.0)])
def test_team_reward(how, paid):
    env = BatchEnv([Toy()], how)
    env.reset([0])
    assert env.step(np.zeros((1, 2), int)).rewards.tolist() == [paid]


@pytest.mark.parametrize("terminates", [True, False])
def test_ends(terminates):
    env = BatchEnv([Toy(terminates=terminates)])
    env.reset([0])
    for _ in range(3):
        now = env.step(np.zeros((1, 2), int))
    assert (now.terminated[0], now.truncated[0]) == (terminates, not terminates)
    after = env.step(np.zeros((1, 2), int))  # ended: nothing more happens
    assert after.rewards[0] == 0
    assert np.array_equal(after.observations, now.observations)


def test_the_step_limit_truncates():
    env = BatchEnv([Toy()], max_steps=2)
    env.reset([0])
    env.step(np.zeros((1, 2), int))
    assert env.step(np.zeros((1, 2), int)).truncated[0]


def test_an_agent_that_leaves_early_sees_nothing_more():
    env = BatchEnv([Toy(leaves_at=2)])
    env.reset([0])
    env.step(np.zeros((1, 2), int))
    now = env.step(np.zeros((1, 2), int))
    assert now.observations[0].tolist() == [[2, 2], [0, 0]]
    assert now.action_mask[0].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert now.rewards[0] == 1.0


def test_smaller_teams_observations_and_action_sets_are_padded():
    small = Toy(agents=("a",), size=1, action=spaces.Discrete(2), mask=2)
    env = BatchEnv([Toy(), small], "mean", sizes=(3, 4, 5))
    now = env.reset([0, 0])
    assert env.agent_mask.tolist() == [[True, True, False], [True, False, False]]
    assert now.observations.shape == (2, 3, 4)
    assert now.action_mask[0].tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert now.action_mask[1].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    now = env.step(np.zeros((2, 3), int))
    assert now.observations[1].tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4]
    assert now.rewards.tolist() == [1.0, 1.0]  # the mean is over agents that are there
    with pytest.raises(UserError, match="do not fit into the family's"):
        BatchEnv([Toy()], sizes=(2, 2, 2))


def test_only_agents_that_are_there_get_actions():
    env = Toy(leaves_at=1)
    got = []
    real = env.step
    env.step = lambda actions: got.append(sorted(actions)) or real(actions)
    batch = BatchEnv([env], "shared")
    batch.reset([0])
    for _ in range(2):
        now = batch.step(np.zeros((1, 2), int))
    assert got == [["a", "b"], ["a"]]
    assert now.rewards[0] == 1.0


@pytest.mark.parametrize(
    ("envs", "message"),
    [
        ([Toy(action=spaces.Box(0, 1))], "supported is Discrete"),
        ([Toy(action=spaces.MultiDiscrete([2, 2]))], "supported is Discrete"),
        ([], "at least one environment"),
    ],
)
def test_refused_when_made(envs, message):
    with pytest.raises(UserError, match=message):
        BatchEnv(envs)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Toy(seen=5), r"observed shape \(5,\), its space says \(2,\)"),
        (Toy(mask=2), r"action_mask of a has shape \(2,\), expected \(3,\)"),
        (Toy(extra="ghost"), r"agents \['ghost'\] that are not in possible_agents"),
        (Toy(reward=float("nan")), "rewards must be finite"),
        (Toy(absent="b"), r"gave no observation for \['b'\] at reset"),
        (Toy(seen_value=np.nan), "observations must be finite"),
        (Toy(blind=True), "action_mask of a allows no action"),
    ],
)
def test_refused_when_played(env, message):
    def play():
        batch = BatchEnv([env])
        batch.reset([0])
        batch.step(np.zeros((1, 2), int))

    with pytest.raises(UserError, match=message):
        play()
