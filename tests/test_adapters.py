from __future__ import annotations

import gymnasium as gym
import lbforaging  # noqa: F401 - registers the environments
import numpy as np
import pytest
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.test import parallel_api_test
from pettingzoo.utils import BaseParallelWrapper
from pettingzoo.utils.conversions import parallel_to_aec

from maicc.envs import BatchEnv, get_family, map_observations
from maicc.envs.adapters import TupleEnv, as_parallel
from maicc.types import UserError

FAMILY = get_family("lbf_7x7")
TASK = FAMILY.training_tasks[0]


def test_a_parallel_environment_stays_as_it_is():
    env = FAMILY.make_env(TASK)
    assert as_parallel(env) is env


def test_an_aec_environment_plays_the_same_episode():
    plain, aec = FAMILY.make_env(TASK), parallel_to_aec(FAMILY.make_env(TASK))
    assert not isinstance(aec, ParallelEnv)
    converted, rng = as_parallel(aec), np.random.default_rng(0)
    a, b = plain.reset(seed=3)[0], converted.reset(seed=3)[0]
    while plain.agents:
        assert all(np.array_equal(a[agent], b[agent]) for agent in plain.agents)
        actions = {agent: int(rng.integers(6)) for agent in plain.agents}
        a, paid, *_ = plain.step(actions)
        b, again, *_ = converted.step(actions)
        assert paid == pytest.approx(again)
    assert not converted.agents
    aec.metadata = {**aec.metadata, "is_parallelizable": False}
    with pytest.raises(UserError, match="agents act one after the other"):
        as_parallel(aec)


def test_a_gymnasium_environment_with_a_tuple_of_spaces():
    # one each: where players stood in an episode before, upstream's seeded reset depends on it
    game, again, direct = (
        gym.make("Foraging-5x5-2p-1f-v3", disable_env_checker=True).unwrapped for _ in range(3)
    )
    env = as_parallel(game)
    assert isinstance(env, TupleEnv)
    assert env.possible_agents == ["agent_0", "agent_1"]
    parallel_api_test(env, num_cycles=120)
    observations, _ = as_parallel(again).reset(seed=1)
    assert np.array_equal(observations["agent_1"], direct.reset(seed=1)[0][1])


def test_what_is_neither_is_refused():
    with pytest.raises(UserError, match="no PettingZoo ParallelEnv or AECEnv"):
        as_parallel(gym.make("CartPole-v1"))


def test_observations_changed():
    env, plain = map_observations(FAMILY.make_env(TASK), lambda o: o[2:4]), FAMILY.make_env(TASK)
    observations, before = env.reset(seed=0)[0], plain.reset(seed=0)[0]
    agent = plain.possible_agents[1]
    assert np.array_equal(observations[agent], before[agent][2:4])
    assert env.observation_space(agent).shape == (2,)
    assert env.observation_space(agent) is env.observation_space(agent)
    parallel_api_test(env, num_cycles=20)


class Rooms(gym.Env):
    """Two agents in a Gymnasium environment; `step` returns what it is told to."""

    observation_space = gym.spaces.Tuple([gym.spaces.Box(0, 1, (2,))] * 2)
    action_space = gym.spaces.Tuple([gym.spaces.Discrete(2)] * 2)

    def __init__(self, returned):
        self.returned = returned

    def reset(self, seed=None, options=None):
        return (np.zeros(2), np.zeros(2)), {}

    def step(self, actions):
        return self.returned


SEEN = (np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((SEEN, 1.0, False, {}), "step must return observations, rewards, terminated"),
        ((SEEN, 1.0, False, False, {}), "has actions for 2 agents, and gave 1.0"),
        ((SEEN, np.array(1.0), False, False, {}), r"has actions for 2 agents, and gave array\(1"),
        ((SEEN[:1], (1, 1), False, False, {}), "expected one value for each"),
        ((SEEN, (1, 1), "False", False, {}), "terminated is 'False', expected True or False"),
        ((SEEN, (1, 1), False, (False,) * 3, {}), "truncated is .*expected True or False"),
        ((SEEN, (1, "x"), False, False, {}), "reward at step 1 of agent_1 is 'x'"),
    ],
)
def test_steps_of_gymnasium_environments_that_are_refused(returned, message):
    batch = BatchEnv([as_parallel(Rooms(returned))])
    batch.reset([0])
    with pytest.raises(UserError, match=message):
        batch.step(np.zeros((1, 2), int))


def test_of_a_dict_the_observation_is_mapped_and_the_mask_stays():
    plain = FAMILY.make_env(TASK)
    seen, infos = plain.reset(seed=3)

    class Dicts(BaseParallelWrapper):
        def observation_space(self, agent):
            mask = gym.spaces.MultiBinary(6)
            box = self.env.observation_space(agent)
            return gym.spaces.Dict({"observation": box, "action_mask": mask})

        def reset(self, seed=None, options=None):
            seen, infos = self.env.reset(seed=seed)
            masks = {agent: infos[agent].pop("action_mask") for agent in seen}
            return {a: {"observation": o, "action_mask": masks[a]} for a, o in seen.items()}, infos

    env = map_observations(Dicts(FAMILY.make_env(TASK)), lambda o: o[2:4])
    mapped, _ = env.reset(seed=3)
    for agent, parts in mapped.items():
        assert np.array_equal(parts["observation"], seen[agent][2:4])
        assert np.array_equal(parts["action_mask"], infos[agent]["action_mask"])
        assert env.observation_space(agent).contains(
            {**parts, "action_mask": parts["action_mask"].astype(np.int8)}
        )


def test_only_boxes_are_mapped():
    env = FAMILY.make_env(TASK)
    env.observation_space = lambda agent: gym.spaces.Discrete(3)
    with pytest.raises(UserError, match="map_observations changes Boxes only"):
        map_observations(env, np.ravel)


def test_an_aec_environment_without_metadata_is_refused():
    class Turns(AECEnv):
        pass

    with pytest.raises(UserError, match="does not say in its metadata"):
        as_parallel(Turns())


def test_observations_may_be_scaled_and_counted():
    plain = FAMILY.make_env(TASK)
    seen, agent = plain.reset(seed=0)[0], plain.possible_agents[0]
    size = len(seen[agent])
    for change in (
        lambda o: 1 - o,
        lambda o: (o - o.mean()) / o.std(),
        lambda o: np.eye(20)[o.astype(int)].ravel(),  # one-hot
    ):
        env = map_observations(FAMILY.make_env(TASK), change)
        mapped = env.reset(seed=0)[0][agent]
        assert np.allclose(mapped, change(seen[agent]))
        assert env.observation_space(agent).contains(mapped)
        assert mapped.shape in ((size,), (20 * size,))
