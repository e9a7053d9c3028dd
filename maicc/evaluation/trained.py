"""Trained teams from a run's folder or from a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from maicc.baselines import method_of
from maicc.baselines.method import Trained
from maicc.config import MaiccAdapt, MemoryConfig
from maicc.evaluation.run_folder import opened, read_config, read_stored
from maicc.teams.lockstep import LockStepTeam
from maicc.types import Spec, UserError


def load_folder(folder: str | Path, spec: Spec | None = None, device: str = "auto") -> Trained:
    """Loads the trained networks in the folder of a run or in a bundle, whatever the method."""
    with opened(folder) as (config, files):
        trained = method_of(config.method).load(config, files, spec, device)
        trained.states_bounds = (read_stored(folder) or {}).get("states_bounds")
        return trained


def load_team(
    folder: str | Path,
    seed: int = 0,
    *,
    memory: MemoryConfig | None = None,
    episodes: int | None = None,
    agents: int | None = None,
    device: str = "auto",
) -> LockStepTeam:
    """Loads one team of the models that `maicc run` left in `folder`; its own memory is empty.

    Args:
        folder: Folder of a run, or a bundle of it, which `maicc bundle` makes.
        seed: Seed of the team.
        memory: MAICC's options of memory; the run's own by default.
        episodes: Planned number of adaptation episodes, for schedules and rivals that need it; the
            run's own by default.
        agents: Size of the team, in families whose teams differ; the largest by default.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.

    Raises:
        UserError: the folder holds no trained team, or an argument does not fit it.
    """
    adapt = read_config(folder).adapt
    models = load_folder(folder, None, device)
    largest = models.spec.n_agents
    agents = largest if agents is None else agents
    if not 1 <= agents <= largest:
        raise UserError(f"agents={agents} must be 1 to {largest}, the most of {models.spec.family}")
    if memory is not None:
        if not isinstance(adapt, MaiccAdapt):
            raise UserError(f"{folder}: its method looks nothing up; leave `memory` out")
        adapt = replace(adapt, memory=memory)
    if episodes is not None:
        adapt = replace(adapt, episodes=episodes)
    return models.team(
        [seed], adapt, agent_mask=np.arange(largest)[None] < agents, agents=range(agents)
    )
