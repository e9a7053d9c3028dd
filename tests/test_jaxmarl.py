"""JaxMARL environments: one alone, many in lock step, and those that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from maicc.data.contract import check_contract
from maicc.envs import BatchEnv, JaxMARLBatch, from_jaxmarl, get_family
from maicc.envs.jax_setup import needs_jaxmarl
from maicc.types import Task, UserError

pytest.importorskip("jaxmarl", reason="the extra `smax` is not installed")

import jax
import jax.numpy as jnp
import jaxmarl


class Space:
    """A Discrete space as JaxMARL has it."""

    def __init__(self, n):
        self.n = n


class Box:
    """Space of continuous actions."""


class State(NamedTuple):
    step: object
    goal: object
    total: object


class Counting:
    """Two agents of unlike sizes; `goal` ends the episode once the actions sum up to it.

    `one` sees a matrix (2, 2), `two` two numbers, and has 2 of the 3 actions of `one`. From the
    second step on `two` is done.
    """

    agents = ("one", "two")
    max_steps = 5
    spaces = {"one": Space(3), "two": Space(2)}  # noqa: RUF012

    def action_space(self, agent):
        return self.spaces[agent]

    def reset(self, key, goal=4):
        state = State(jnp.array(0), jnp.asarray(goal), jax.random.uniform(key))
        return self.look(state), state

    def look(self, state):
        seen = jnp.stack([state.total, jnp.float32(state.step)])
        return {"one": jnp.stack([seen, seen + 1]), "two": (10 * seen).astype(int), "all": seen}

    def step_env(self, key, state, actions):
        drawn = jax.random.uniform(key, (), minval=0.0, maxval=0.1)
        total = state.total + actions["one"] + actions["two"] + drawn
        state = State(state.step + 1, state.goal, total)
        over = (total >= state.goal) | (state.step >= self.max_steps)
        dones = {"one": over, "two": over | (state.step >= 2), "__all__": over}
        return self.look(state), state, {"one": total, "two": 1.0}, dones, {}


class Masked(Counting):
    def get_avail_actions(self, state):
        return {"one": jnp.array([0, 1, 0]), "two": jnp.stack([state.step < 1, True])}


ENV, MASKED = Counting(), Masked()


def tasks(*goals):
    return [Task("counting", str(goal), {"goal": goal}) for goal in goals]


def step(env, one, two):
    return env.step({"one": one, "two": two})


def test_pettingzoo_contract():
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(from_jaxmarl(ENV), num_cycles=20)
    parallel_seed_test(lambda: from_jaxmarl(ENV), num_cycles=10)


def test_an_episode_is_that_of_the_environment_itself():
    env, key = from_jaxmarl(ENV), jax.random.PRNGKey(7)
    of_steps = jax.random.fold_in(key, 2**32 - 1)
    seen, infos = env.reset(seed=7)
    expected, state = ENV.reset(key)
    for t in range(3):
        assert np.array_equal(seen["one"], np.ravel(expected["one"]))
        assert np.array_equal(seen["two"], expected["two"])
        assert seen["one"].dtype == seen["two"].dtype == np.float32
        assert np.array_equal(env.game_state.total, state.total)
        assert infos["two"]["action_mask"].tolist() == [1, 1]  # there are no masks: all are legal
        seen, paid, *_, infos = step(env, 0, 1)
        actions = {"one": 0, "two": 1}
        expected, state, rewards, *_ = ENV.step_env(jax.random.fold_in(of_steps, t), state, actions)
        assert paid == {a: float(rewards[a]) for a in ENV.agents}
    assert env.observation_space("one").shape == (4,)
    assert [int(env.action_space(agent).n) for agent in env.agents] == [3, 2]


def test_what_follows_a_seeded_episode_is_seeded_too():
    def third(seed):
        env = from_jaxmarl(ENV)
        for given in (seed, None, None):
            seen, _ = env.reset(given)
        return seen["one"].tolist()

    assert third(1) == third(1)
    assert third(1) != third(2)


def test_ends():
    env = from_jaxmarl(ENV, {"goal": 5})
    env.reset(seed=0)
    step(env, 2, 1)
    assert env.agents == ["one", "two"]
    *_, terminated, truncated, infos = step(env, 2, 1)
    assert terminated == {"one": True, "two": True}
    assert truncated == {"one": False, "two": False}
    assert not env.agents
    env.reset(seed=0)
    for played in range(1, 6):
        *_, terminated, truncated, infos = step(env, 0, 0)
        assert infos["two"]["alive"] == (played < 2)  # the end does not bring it back
        assert infos["one"]["alive"]
    assert (terminated["one"], truncated["one"]) == (False, True)  # at the limit: a truncation
    short = from_jaxmarl(ENV, {"goal": 9}, max_steps=2)
    short.reset(seed=0)
    step(short, 0, 0)
    assert step(short, 0, 0)[3] == {"one": True, "two": True}


class Paying(Counting):
    """Pays 1 to the living in each step; agent one dies in the second."""

    def step_env(self, key, state, actions):
        seen, state, _, dones, told = super().step_env(key, state, actions)
        dones = {**dones, "one": dones["two"], "two": dones["one"]}
        return seen, state, {"one": jnp.float32(state.step < 2), "two": 1.0}, dones, told


def test_a_shared_reward_is_that_of_the_living_to_the_last_step():
    games = JaxMARLBatch(Paying(), tasks(9), "shared")
    alone = BatchEnv([from_jaxmarl(Paying(), {"goal": 9})], "shared")
    for batch in (games, alone):
        played = [batch.reset([0])]
        while not played[-1].done[0]:
            played.append(batch.step(np.zeros((1, 2), int)))
        assert [float(step.rewards[0]) for step in played] == [0, 1, 1, 1, 1, 1]
        assert [bool(step.alive[0, 0]) for step in played] == [True, True] + 4 * [False]
        assert all(step.alive[0, 1] for step in played)


@pytest.mark.parametrize("env", [ENV, MASKED], ids=["plain", "masked"])
def test_games_in_lock_step_equal_games_alone(env):
    goals, seeds, rng = [2, 5, 9], [3, 4, 5], np.random.default_rng(0)
    sizes = (3, 6, 4)
    together = JaxMARLBatch(env, tasks(*goals), "mean", sizes=sizes)
    alone = BatchEnv([from_jaxmarl(env, {"goal": goal}) for goal in goals], "mean", sizes=sizes)
    assert together.rosters == alone.rosters
    assert np.array_equal(together.agent_mask, alone.agent_mask)
    for _ in range(2):
        now, each = together.reset(seeds), alone.reset(seeds)
        for _ in range(6):
            for part, other in zip(now, each, strict=True):
                assert part.dtype == other.dtype
                assert np.array_equal(part, other)
            for b in range(3):
                own = together.envs[b].game_state
                if not now.done[b]:
                    assert own.goal == goals[b]
                    assert own == alone.envs[b].game_state
            actions = (rng.random(now.action_mask.shape) * now.action_mask).argmax(-1)
            now, each = together.step(actions), alone.step(actions)
        assert now.done.all()
        assert 1 <= now.terminated.sum() <= 2


def test_masks():
    env = from_jaxmarl(MASKED)
    _, infos = env.reset(seed=0)
    assert infos["one"]["action_mask"].tolist() == [0, 1, 0]
    assert infos["two"]["action_mask"].tolist() == [1, 1]
    *_, infos = step(env, 1, 0)
    assert infos["two"]["action_mask"].tolist() == [0, 1]


def test_a_step_is_compiled_once():
    batch = JaxMARLBatch(ENV, tasks(4, 9))
    batch.reset([0, 1])
    before = jax.tree.map(lambda x: str(x.aval), batch._state)
    batch.step(np.zeros((2, 2), int))
    assert before == jax.tree.map(lambda x: str(x.aval), batch._state)
    assert batch.engine is JaxMARLBatch(ENV, tasks(5)).engine


class Continuous(Counting):
    spaces = {"one": Box(), "two": Box()}  # noqa: RUF012


class Unkeyed(Counting):
    def look(self, state):
        return state.total[None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_jaxmarl(Continuous()), "one has the action space Box; supported is Discrete"),
        (lambda: from_jaxmarl(Unkeyed()), "gives no array of observations for one"),
        (lambda: from_jaxmarl(object()), "object has no `reset` that takes a key"),
        (lambda: from_jaxmarl(ENV, {"end": 3}), "takes a key and the task's parameters {'end': 3}"),
        (lambda: from_jaxmarl(ENV, {"goal": "four"}), "goal of the tasks must be numbers"),
        (lambda: JaxMARLBatch(ENV, []), "at least one task"),
        (lambda: JaxMARLBatch(ENV, tasks(4, [4, 5])), "goal of the tasks must be numbers"),
        (lambda: JaxMARLBatch(ENV, [*tasks(4), Task("counting", "")]), r"parameters \[\] and"),
        (lambda: JaxMARLBatch(ENV, tasks(4), sizes=(2, 3, 3)), "do not fit into the family's"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_without_jax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match=r'Counting needs jaxmarl .*pip install "maicc\[smax\]"'):
        from_jaxmarl(Counting())


ONE_GAME = """
import numpy as np
from maicc.envs import get_family
env = get_family("mpe_codebook").make_batch(get_family("mpe_codebook").training_tasks[:2])
now, seen = env.reset([0, 1]), []
while not now.done.all():
    now = env.step(np.full((2, 2), 1))
    seen.append(now.observations)
print("seen", np.concatenate(seen).tobytes().hex())
"""


@pytest.mark.slow
def test_what_is_compiled_is_kept_for_other_processes(tmp_path):
    def play(**options):
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # 1 leaves out what is quick
        env |= {"XDG_CACHE_HOME": str(tmp_path), **options}
        done = subprocess.run(
            [sys.executable, "-c", ONE_GAME], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-cache")}
        return done.stdout.split("seen ")[1], kept

    first, kept = play()
    assert {"jit_reset", "jit_step"} <= {path.name.split("-")[0] for path in kept}
    assert all(path.parts[-3] == "maicc" for path in kept)
    assert play(JAX_RAISE_PERSISTENT_CACHE_ERRORS="1") == (first, kept)


def test_a_folder_of_the_users_own_stays_and_none_is_needed(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    try:
        for folder in (str(tmp_path / "own"), None):
            jax.config.update("jax_compilation_cache_dir", folder)
            with needs_jaxmarl("nobody"):
                assert jax.config.jax_compilation_cache_dir == folder
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_package_imports_no_jax():
    code = (
        "import sys, maicc.envs\n"
        "maicc.envs.get_family('mpe_codebook')\n"
        "assert not {'jax', 'jaxmarl'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["overcooked_v2", "HeuristicEnemySMAX"])
def test_environments_of_jaxmarl_keep_the_contract(name):
    env = jaxmarl.make(name)
    batch = BatchEnv([from_jaxmarl(env, max_steps=9)])
    now, rng = batch.reset([0]), np.random.default_rng(0)
    assert now.action_mask.all() == (name != "HeuristicEnemySMAX")
    for _ in range(9):
        now = batch.step((rng.random(now.action_mask.shape) * now.action_mask).argmax(-1))
    assert now.truncated[0]


@pytest.mark.slow
def test_the_tutorials_family_keeps_its_contract(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    (hidden,) = (block for block in blocks if "class Hidden" in block)
    (tmp_path / "hidden.py").write_text(hidden)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("maicc.data.contract._SECONDS", 0.05)
    family = get_family("hidden:hidden")
    assert all(verdict.fine for verdict in check_contract(family))
    batch = family.make_batch(family.training_tasks[:2])
    assert batch.reset([0, 1]).observations.shape == (2, 3, 12)
