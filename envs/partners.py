"""Ad-hoc teamwork: scripted partners are a part of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from maicc.envs.adapters import ResetResult, StepResult, as_parallel
from maicc.envs.spaces import name_of
from maicc.types import UserError

# A partner sees the whole environment, and chooses its own action.
Partner = Callable[[ParallelEnv, np.random.Generator], int]


class _WithPartners(BaseParallelWrapper):
    def __init__(self, env: ParallelEnv, partners: Mapping[str, Partner]) -> None:
        super().__init__(env)
        self._partners = dict(partners)
        self.possible_agents = self._ours(env.possible_agents)
        self._rng = np.random.default_rng()

    def _ours(self, agents: Any) -> Any:
        """Leaves the partners out of a list of agents, or out of a dict by agent."""
        if isinstance(agents, Mapping):
            return {a: value for a, value in agents.items() if a not in self._partners}
        return [agent for agent in agents if agent not in self._partners]

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        observations, infos = self.env.reset(seed=seed, options=options)
        self.agents = self._ours(self.env.agents)
        return self._ours(observations), self._ours(infos)

    def step(self, actions: dict[str, int]) -> StepResult:
        played = {a: p(self.env, self._rng) for a, p in self._partners.items()}
        here = {agent: action for agent, action in played.items() if agent in self.env.agents}
        observations, rewards, terminations, truncations, infos = self.env.step(actions | here)
        self.agents = self._ours(self.env.agents)
        return (
            self._ours(observations),
            self._ours(rewards),
            self._ours(terminations),
            self._ours(truncations),
            self._ours(infos),
        )


def with_partners(env: Any, partners: Mapping[str, Partner]) -> ParallelEnv:
    """Wraps `env` so that scripted partners play some of its agents.

    The others are the team. They see their partners as the environment shows them. What a partner
    is paid is not part of the team reward.

    Args:
        env: Whatever `make` of a TaskFamily may return.
        partners: Policy of each agent that is a partner: `partner(env, rng)` returns its action.
            Its `rng` follows from the seed of `reset`.

    Raises:
        UserError: a partner is no agent of the environment, or no agent is left.
    """
    env = as_parallel(env)
    unknown = set(partners) - set(env.possible_agents)
    if unknown or len(partners) == len(env.possible_agents):
        raise UserError(
            f"{name_of(env)}: partners {sorted(partners)} must be some of its agents "
            f"{env.possible_agents}, but not all"
        )
    return _WithPartners(env, partners)
