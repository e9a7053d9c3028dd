"""Export to Minari, and import from it.

Minari keeps episodes of one agent that has spaces of its own. A team is laid out as one agent whose
observations and actions are dicts of its agents', with N agents of the largest team:

    observations                agent_0, agent_1, ...: (T+1, O) float32 each
    actions                     agent_0, agent_1, ...: (T,) integers each
    rewards                     (T,) of the team
    terminations, truncations   (T,), True at the last step at most
    infos                       action_mask (T+1, N, A); alive, individual_rewards and
                                expert_actions (T, N)
    seed                        of the reset, if it is known
    options                     of the reset: task, by its name; behaviour, by its number; and
                                agent_mask (N,), which agents are there
    metadata["maicc"]           of the dataset: spec, tasks, behaviours and rosters, as plain JSON

Nothing is fetched from a hub: datasets lie in the folder `MINARI_DATASETS_PATH`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from maicc.data.dataset import EpisodeFile, require_fit, write_episodes
from maicc.data.episodes import EpisodeBatch, empty_episodes
from maicc.envs import TaskFamily
from maicc.files import first_line, require_new
from maicc.types import Behaviour, Spec, Task, UserError

_OF_STEPS = ("alive", "individual_rewards", "expert_actions")  # infos with a row for each step


def export_minari(source: Path, family: TaskFamily, name: str) -> None:
    """Writes a dataset of `family` as the Minari dataset `name`, whole or not at all.

    Raises:
        UserError: Minari is missing, the name is none or taken, or the dataset is of another
            family.
    """
    folder = _folder(name)
    require_new(folder, "another name")
    dataset = EpisodeFile(source)
    dataset.require_family(family)
    episodes, spec = dataset.mapped(), dataset.spec
    from minari import __version__, namespace
    from minari.dataset.minari_storage import MinariStorage

    agents = _agents(spec)
    seen = spaces.Box(-np.inf, np.inf, (spec.observation_size,), np.float32)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # by a process that was killed
    part.mkdir(parents=True)
    try:
        storage = MinariStorage.new(
            part / "data",
            observation_space=spaces.Dict(dict.fromkeys(agents, seen)),
            action_space=spaces.Dict({a: spaces.Discrete(spec.n_actions) for a in agents}),
        )
        described = {
            "spec": asdict(spec),
            "tasks": [task.to_json() for task in dataset.tasks],
            "behaviours": [asdict(behaviour) for behaviour in dataset.behaviours],
            "rosters": dataset.rosters,
        }
        storage.update_metadata(
            {"dataset_id": name, "minari_version": __version__, "maicc": described}
        )
        storage.update_episodes(_buffers(episodes, dataset.tasks, agents))
        space, _, _ = name.rpartition("/")
        if space and space not in namespace.list_local_namespaces():
            namespace.create_namespace(space)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{folder}: {len(episodes)} episodes from {source}")


def _buffers(episodes: EpisodeBatch, tasks: list[Task], agents: list[str]) -> Iterator[Any]:
    """Makes Minari's episodes, one after the other."""
    from minari.data_collector import EpisodeBuffer

    for e, length in enumerate(episodes.length.tolist()):
        last = np.arange(length) == length - 1
        seed = int(episodes.seed[e])
        yield EpisodeBuffer(
            seed=None if seed < 0 else seed,
            options={
                "task": tasks[episodes.task[e]].name,
                "behaviour": int(episodes.behaviour[e]),
                "agent_mask": episodes.agent_mask[e],
            },
            observations={
                a: episodes.observations[e, : length + 1, i] for i, a in enumerate(agents)
            },
            actions={a: episodes.actions[e, :length, i] for i, a in enumerate(agents)},
            rewards=episodes.rewards[e, :length],
            terminations=last & episodes.terminated[e],
            truncations=last & episodes.truncated[e],
            infos={
                "action_mask": episodes.action_mask[e, : length + 1],
                **{key: getattr(episodes, key)[e, :length] for key in _OF_STEPS},
            },
        )


def import_minari(name: str, family: TaskFamily, out: Path) -> None:
    """Writes the Minari dataset `name`, which `export_minari` has made, as one of `family`.

    Raises:
        UserError: Minari or the dataset is missing, or the dataset is laid out in another way or
            of another family.
    """
    folder = _folder(name)
    if not folder.exists():
        raise UserError(f"{folder}: no such dataset; MINARI_DATASETS_PATH is the folder of all")
    import minari

    try:
        stored = minari.load_dataset(name)
        described = stored.storage.metadata["maicc"]
        spec = Spec.from_json(described["spec"])
        tasks = [Task(**task) for task in described["tasks"]]
        behaviours = [Behaviour(**values) for values in described["behaviours"]]
        rosters = described["rosters"]
        require_fit(str(folder), spec, tasks, family)
        episodes = _episodes(stored, spec, [task.name for task in tasks])
    except UserError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        raise UserError(
            f"{folder}: no team as `maicc collect --to-minari` lays it out "
            f"({type(error).__name__}: {first_line(error)}); read it with --from-arrays"
        ) from None
    write_episodes(out, episodes, spec, tasks, behaviours, rosters=rosters)
    print(f"{out}: {len(episodes)} episodes from {folder}")


def _episodes(stored: Any, spec: Spec, tasks: list[str]) -> EpisodeBatch:
    """Makes episodes of a Minari dataset.

    Args:
        tasks: Names of the tasks.
    """
    episodes = empty_episodes(spec, len(stored))
    for e, episode in enumerate(stored.iterate_episodes()):
        length = len(episode)
        for i, agent in enumerate(_agents(spec)):
            episodes.observations[e, : length + 1, i] = episode.observations[agent]
            episodes.actions[e, :length, i] = episode.actions[agent]
        episodes.action_mask[e, : length + 1] = episode.infos["action_mask"]
        for name in _OF_STEPS:
            getattr(episodes, name)[e, :length] = episode.infos[name]
        episodes.rewards[e, :length] = episode.rewards
        episodes.length[e] = length
        episodes.terminated[e] = episode.terminations[-1]
        episodes.truncated[e] = episode.truncations[-1]
    described = stored.storage.get_episode_metadata(stored.episode_indices)
    for e, metadata in enumerate(described):
        options = metadata["options"]
        episodes.task[e] = tasks.index(options["task"])
        episodes.behaviour[e] = options["behaviour"]
        episodes.agent_mask[e] = options["agent_mask"]
        episodes.seed[e] = metadata.get("seed", -1)
    return episodes


def _agents(spec: Spec) -> list[str]:
    """Names of the agents of the largest team."""
    return [f"agent_{i}" for i in range(spec.n_agents)]


def _folder(name: str) -> Path:
    """Folder of a Minari dataset.

    Raises:
        UserError: Minari is missing, or this is no name of a dataset.
    """
    if find_spec("minari") is None:
        raise UserError('Minari is not installed: pip install "maicc[minari]"')
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError):  # the latter without a version
        raise UserError(f"{name}: no name of a Minari dataset, such as mine/levers-v0") from None
    return get_dataset_path(name)
