"""Environments that hypothesis draws: those that keep the contract go through everything in
silence, those that break it in one way are refused with the way's name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pettingzoo import ParallelEnv

from maicc.config import DecisionConfig, DecisionFit
from maicc.data.behaviour import play
from maicc.data.contract import check_family
from maicc.envs import TaskFamily, register
from maicc.experiments.run import run
from maicc.files import read_json
from maicc.types import UserError
from tests.conftest import tiny_config


@dataclass(frozen=True)
class Shape:
    """What a drawn environment is like."""

    sights: tuple[int, ...]  # numbers that each agent observes
    moves: tuple[int, ...]  # actions of each agent
    masks: str  # where action masks are: `infos`, `dict` or `none`
    leaves: int  # step after which the first agent leaves; 0 if it stays
    dies: int  # step after which the last agent is dead, but stays; 0 if it lives
    ends: str  # `all` are terminated in the last step, or all are `truncated`
    steps: int
    shared: bool  # every agent is paid the team's reward
    bounds: bool  # whether the family states the bounds of its return
    names: tuple[str, ...]


@st.composite
def shapes(draw: Any) -> Shape:
    n = draw(st.integers(1, 4))
    several = n > 1
    names = draw(st.permutations(["a", "agent_10", "agent_2", "Ünï 1"]))[:n]
    steps = draw(st.integers(1, 5))
    return Shape(
        sights=tuple(draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))),
        moves=tuple(draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))),
        masks=draw(st.sampled_from(["infos", "dict", "none"])),
        leaves=draw(st.integers(0, max(steps - 1, 0))) if several else 0,
        dies=draw(st.integers(0, max(steps - 1, 0))) if several else 0,
        ends=draw(st.sampled_from(["all", "truncated"])),
        steps=steps,
        shared=draw(st.booleans()),
        bounds=draw(st.booleans()),
        names=tuple(names),
    )


class Drawn(ParallelEnv):
    """An environment of that shape; action 0 pays, and `hidden` is what it pays."""

    metadata = {"name": "drawn"}  # noqa: RUF012
    render_mode = None

    def __init__(self, shape: Shape, hidden: int, fault: str = "") -> None:
        self.shape, self.hidden, self.fault = shape, hidden, fault
        self.possible_agents = list(shape.names)
        self._sights = {
            agent: spaces.Box(-9, 9, (n,), np.float32)
            for agent, n in zip(shape.names, shape.sights, strict=True)
        }
        self._moves = {
            agent: spaces.Discrete(n) for agent, n in zip(shape.names, shape.moves, strict=True)
        }

    def observation_space(self, agent):
        box = self._sights[agent]
        if self.shape.masks != "dict":
            return box
        mask = spaces.Box(0, 1, (self._moves[agent].n,), np.int8)
        return spaces.Dict({"observation": box, "action_mask": mask})

    def action_space(self, agent):
        return self._moves[agent]

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.agents, self.at = list(self.possible_agents), 0
        seen, infos = self._see(self.agents)
        if self.fault == "no infos":
            return seen
        if self.fault == "unseen agent":
            seen.pop(self.agents[-1])
        return seen, infos

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.at += 1
        shape, acting = self.shape, self.agents
        over = self.at >= shape.steps
        gone = {acting[0]} if self.at == shape.leaves and len(acting) > 1 and not over else set()
        good = sum(action == 0 for action in actions.values()) / len(self.possible_agents)
        paid = dict.fromkeys(acting, good * self.hidden / 2)
        if not shape.shared:
            paid = {a: float(actions[a] == 0) * self.hidden / 2 for a in acting}
        terminated = {a: (over and shape.ends == "all") or a in gone for a in acting}
        truncated = dict.fromkeys(acting, over and shape.ends == "truncated")
        seen, infos = self._see(acting)
        self.agents = [] if over else [a for a in acting if a not in gone]
        last = acting[-1]
        if self.fault == "unpaid agent":
            paid.pop(last)
        elif self.fault == "end untold":
            terminated.pop(last)
        elif self.fault == "unknown agent":
            seen["nobody"] = seen[last]
        elif self.fault == "reward not finite":
            paid[last] = np.nan
        elif self.fault == "reward is text":
            paid[last] = "much"
        elif self.fault == "end is text":
            terminated[last] = "no"
        elif self.fault == "four values":
            return seen, paid, terminated, infos
        return seen, paid, terminated, truncated, infos

    def _see(self, agents):
        seen, infos = {}, {}
        for agent in agents:
            size, n = self._sights[agent].shape[0], int(self._moves[agent].n)
            sight = np.full(size, self.at / 5, np.float32)
            if self.fault == "observation not finite":
                sight[0] = np.inf
            elif self.fault == "observation too long":
                sight = np.zeros(size + 1, np.float32)
            mask = np.ones(n, np.int8)
            if n > 1 and self.at % 2:
                mask[-1] = 0
            if self.fault == "no legal action":
                mask[:] = 0
            elif self.fault == "mask too short":
                mask = mask[:-1]
            dead = 0 < self.shape.dies <= self.at and agent == self.possible_agents[-1]
            infos[agent] = {"alive": False} if dead else {}
            if self.shape.masks == "infos":
                infos[agent]["action_mask"] = mask
            seen[agent] = sight
            if self.shape.masks == "dict":
                seen[agent] = {"observation": sight, "action_mask": mask}
        return seen, infos


def expert(env: Any, rng: np.random.Generator) -> dict[str, int]:
    return dict.fromkeys(env.agents, 0)


def family_of(shape: Shape, fault: str = "", name: str = "drawn") -> TaskFamily:
    made = {hidden: f"{hidden}" for hidden in (1, 2, 3)}
    return TaskFamily(
        name=name,
        make=lambda hidden: Drawn(shape, hidden, fault),
        training=[{"hidden": h} for h in made if h != 3],
        held_out=[{"hidden": 3}],
        max_steps=shape.steps,
        return_bounds=(0.0, 1.5 * shape.steps * len(shape.names)) if shape.bounds else None,
        expert=expert,
        team_reward="shared" if shape.shared else "sum",
    )


slowly = settings(
    max_examples=6, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.mark.slow
@slowly
@given(shape=shapes())
def test_what_keeps_the_contract_goes_through_everything(shape, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    register(family_of(shape))
    config = tiny_config()
    config.family = "drawn"
    model = DecisionConfig(width=16, layers=1, heads=2, record=2)
    config.decision = DecisionFit(model=model, batch_size=4, steps=2)
    run(config, folder)
    result = read_json(folder / "adapt" / "result.json")
    returns = np.array([r["returns"] for r in result["runs"]])
    most = 1.5 * shape.steps * (1 if shape.shared else len(shape.names))
    assert (returns >= 0).all()
    assert (returns <= most + 1e-6).all()


FAULTS = {
    "no infos": "reset", "unseen agent": "no observation", "unpaid agent": "rewards",
    "end untold": "terminations", "unknown agent": "nobody", "reward not finite": "finite",
    "reward is text": "reward", "end is text": "termination", "four values": "step",
    "observation not finite": "finite", "observation too long": "shape",
    "no legal action": "no action", "mask too short": "shape",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(shape=shapes())
def test_what_breaks_it_is_refused_by_name(fault, shape):
    moves = tuple(max(n, 2) for n in shape.moves)
    masks = shape.masks if "mask" not in fault and "legal" not in fault else "infos"
    shape = replace(shape, moves=moves, masks=masks, leaves=0)
    family = family_of(shape, fault)
    for refuses in (
        lambda: play(family, family.training_tasks[0], 0.5, [(0, 0)]),
        lambda: check_family(family),
    ):
        with pytest.raises(UserError, match=FAULTS[fault]):
            refuses()
