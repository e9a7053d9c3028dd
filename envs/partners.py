"""Ad-hoc teamwork: scripted partners are a part of the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from maicc.envs.adapters import (
    RESET,
    STEP,
    ResetResult,
    StepResult,
    as_parallel,
    parts_of,
    reset_env,
)
from maicc.envs.spaces import name_of, roster_of
from maicc.streams import Stream
from maicc.types import UserError

# A partner sees the whole environment, and chooses its own action.
Partner = Callable[[ParallelEnv, np.random.Generator], int]


class _WithPartners(BaseParallelWrapper):
    """Wrapper that plays the partners, and shows an environment of the other agents."""

    def __init__(self, env: ParallelEnv, partners: Mapping[str, Partner]) -> None:
        super().__init__(env)
        self._partners = dict(partners)
        self.possible_agents = [a for a in roster_of(env) if a not in partners]
        self._rng = np.random.default_rng()

    def _ours(self, parts: Any) -> Any:
        """Leaves the partners out of dicts by agent, and of the agents that take part."""
        self.agents = [a for a in self.env.agents if a not in self._partners]
        return tuple({a: v for a, v in part.items() if a not in self._partners} for part in parts)

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        if seed is not None:
            self._rng = np.random.default_rng([seed, Stream.PARTNERS])
        result = reset_env(self.env, seed=seed, options=options)
        return self._ours(parts_of(self.env, "reset", result, RESET))

    def step(self, actions: dict[str, int]) -> StepResult:
        played = {
            agent: partner(self.env, self._rng)
            for agent, partner in self._partners.items()
            if agent in self.env.agents
        }
        return self._ours(parts_of(self.env, "step", self.env.step(actions | played), STEP))


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
    roster = roster_of(env)
    if not set(partners) < set(roster):
        raise UserError(
            f"{name_of(env)}: partners {sorted(partners)} must be some of its agents {roster}, but "
            "not all"
        )
    return _WithPartners(env, partners)
