"""Lock step, and each way an environment can break the contract."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.envs import BatchEnv, TaskFamily, batch_env, get_family
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


class Changed(Toy):
    """Returns what `change` makes of the five parts of a step, which it may alter."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self.change = change

    def step(self, actions):
        parts = [dict(part) for part in super().step(actions)]
        return self.change(self, parts) or tuple(parts)


def part(number, **entries):
    """Alters a part of a step: an entry of None is left out."""

    def change(env, parts):
        for agent, value in entries.items():
            parts[number].pop(agent, None)
            if value is not None:
                parts[number][agent] = value

    return change


def emptied(env, parts):
    env.agents = []


def one_is_gone(env, parts):
    env.agents = ["a"]


def comes_back(env, parts):
    env.agents = ["a"] if env.t == 1 else ["a", "b"]
    parts[2]["b"] = env.t == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda env, parts: tuple(parts[:4]), "step 1 returned 4 values, expected 5: observations"),
        (lambda env, parts: [*parts], "step 1 returned list, expected 5"),
        (lambda env, parts: (*parts[:4], None), "returned infos as NoneType, expected a dict"),
        (part(0, b=None), r"observations of agents \['b'\] are missing at step 1"),
        (part(1, b=None), r"rewards of agents \['b'\] are missing at step 1"),
        (part(2, b=None), r"terminations of agents \['b'\] are missing at step 1"),
        (part(3, a=None, b=None, __all__=False), r"truncations of agents \['a', 'b'\] are missing"),
        (part(4, b=None), r"infos of agents \['b'\] are missing at step 1"),
        (part(4, b=3), "infos at step 1 are .*expected a dict by agent"),
        (part(2, __all__=False), r"agents \['__all__'\] that are not in possible_agents"),
        (part(1, ghost=1.0), r"agents \['ghost'\] that are not in possible_agents"),
        (part(2, a="False"), "termination at step 1 of a is 'False', expected numbers"),
        (part(3, a=2), "truncation at step 1 of a is 2, expected True or False"),
        (part(3, a=np.array([False])), "expected one number"),
        (part(1, a=None, b=None), r"rewards of agents \['a', 'b'\] are missing"),
        (part(1, a=np.array([1.0])), r"reward at step 1 of a is array.*expected one number"),
        (part(1, a="1"), "reward at step 1 of a is '1', expected numbers"),
        (part(1, a=1e39), "rewards must be finite"),
        (part(0, a=np.array(["1", "2"])), "observation of a is .*expected numbers"),
        (part(0, a=[[1], [1, 2]]), "observation of a is .*expected numbers"),
        (part(0, a={"seen": np.zeros(2)}), "a observed a dict of .*'observation' in it"),
        (part(4, a={"action_mask": [1, 0.5, 0]}), "action_mask of a is .*expected 0 or 1 each"),
        (part(4, a={"action_mask": [1, np.nan, 0]}), "expected 0 or 1 each"),
        (part(4, a={"alive": "no"}), "alive of a is 'no', expected numbers"),
        (emptied, r"\['a', 'b'\] are gone from `agents` after step 1, and neither"),
        (one_is_gone, r"\['b'\] are gone from `agents` after step 1, and neither"),
        (comes_back, r"`agents` is \['a', 'b'\] after a step, and was \['a'\] before"),
    ],
)
def test_what_is_missing_or_odd_in_a_step_is_refused(change, message):
    batch = BatchEnv([Changed(change)])
    batch.reset([0])
    if change is comes_back:
        batch.step(np.zeros((1, 2), int))
    with pytest.raises(UserError, match=message):
        batch.step(np.zeros((1, 2), int))


def test_a_game_that_breaks_off_twice_running_is_refused():
    broken = [True, False, True, True]

    def change(env, parts):
        parts[4]["a"]["game_crashed"] = broken.pop(0)

    batch = BatchEnv([Changed(change)])
    for crashed in (True, False, True):
        batch.reset([0])
        batch.step(np.zeros((1, 2), int))
        assert batch.crashed == [crashed]
    batch.reset([0])
    with pytest.raises(UserError, match="broke off in two episodes running"):
        batch.step(np.zeros((1, 2), int))


@pytest.mark.parametrize("team_reward", ["sum", "shared"])
def test_numbers_of_other_kinds_are_taken_for_what_they_are(team_reward):
    def change(env, parts):
        parts[1] = {"a": np.float64(2), "b": np.array(2)}
        parts[2] = {"a": np.False_, "b": 0}
        parts[4]["common"] = "more than the agents' infos"

    batch = BatchEnv([Changed(change)], team_reward)
    batch.reset([0])
    now = batch.step(np.zeros((1, 2), int))
    assert now.rewards.tolist() == [4.0 if team_reward == "sum" else 2.0]
    assert not now.done.any()


@pytest.mark.parametrize(
    ("name", "reset", "message"),
    [
        (
            "reset",
            lambda seed=None, options=None: {"a": 0, "b": 0},
            "reset returned dict, expected",
        ),
        ("reset", lambda seed=None: ({}, {}, {}), "reset returned 3 values, expected 2"),
        ("reset", lambda: ({}, {}), "unexpected keyword argument 'seed'; expected reset"),
    ],
)
def test_resets_that_are_refused(name, reset, message):
    env = Toy()
    reset.__qualname__ = reset.__name__ = name
    env.reset = reset
    with pytest.raises(UserError, match=message):
        BatchEnv([env]).reset([0])


def test_an_environment_that_is_over_at_reset_is_refused():
    env = Toy()
    real = env.reset

    def reset(seed=None, options=None):
        result = real(seed)
        env.agents = []
        return result

    env.reset = reset
    with pytest.raises(UserError, match=r"`agents` is \[\] after reset.*from the start"):
        BatchEnv([env]).reset([0])


@pytest.mark.parametrize("roster", [None, [], {"a", "b"}, ["a", "a"], "ab"])
def test_rosters_without_an_order_are_refused(roster):
    env = Toy()
    env.possible_agents = roster
    with pytest.raises(UserError, match=r"possible_agents is .*expected a list of all agents"):
        BatchEnv([env])


def test_the_same_environment_twice_is_refused():
    env = Toy()
    with pytest.raises(UserError, match="must make a fresh environment each time"):
        BatchEnv([env, env])


def test_unequal_shares_of_a_shared_reward_are_refused():
    batch = BatchEnv([Changed(part(1, a=1.0, b=10.0))], "shared")
    batch.reset([0])
    with pytest.raises(UserError, match="team_reward=shared means that every agent is paid the"):
        batch.step(np.zeros((1, 2), int))


def dies(env, parts):
    """The first agent dies in step 2, is told to have ended, and is paid 0 from then on."""
    if env.t >= 2:
        parts[0]["a"], parts[1]["a"], parts[2]["a"], parts[3]["a"] = np.zeros(2), 0.0, True, False
        parts[4]["a"] = {}
        env.agents = [agent for agent in env.agents if agent != "a"]


def stays_dead(env, parts):
    """The first agent dies in step 2 and stays, paid 0."""
    if env.t >= 2:
        parts[1]["a"], parts[4]["a"] = 0.0, {"alive": False}


@pytest.mark.parametrize("change", [dies, stays_dead])
def test_a_shared_reward_is_that_of_the_living(change):
    batch = BatchEnv([Changed(change)], "shared")
    batch.reset([0])
    assert [batch.step(np.zeros((1, 2), int)).rewards[0] for _ in range(3)] == [1.0, 1.0, 1.0]


def test_the_made_are_closed_where_one_cannot_be_made():
    made, closed = [], []

    def make(**parameters):
        if len(made) == 2:
            raise RuntimeError("no third one")
        env = Toy()
        made.append(env)
        env.close = lambda: closed.append(env)
        return env

    family = TaskFamily("toy", make, [{"i": i} for i in range(4)], [], 3, sizes=(2, 2, 3))
    with pytest.raises(RuntimeError, match="no third one"):
        batch_env(family, family.training_tasks)
    assert sorted(map(id, closed)) == sorted(map(id, made))
