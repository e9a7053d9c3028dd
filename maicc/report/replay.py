"""The page that replays traced episodes: what agents saw, did and remembered."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np

from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import EpisodeBatch
from maicc.envs import TaskFamily, get_family
from maicc.envs.drawing import COLOURS, Kind, Shape, drawn
from maicc.evaluation.traces import OFFLINE, Traces, load_traces
from maicc.files import plain_number, write_text
from maicc.report.pictures import drawings, frames
from maicc.report.write import page

EPISODES = 20  # of all runs together, on a page
_KINDS = get_args(Kind)
_SIDE = 320  # pixels of the longer side of a frame


def write_replay(source: Path, out: Path | None = None, episodes: int = EPISODES) -> Path:
    """Writes the page of traces, and returns its path.

    Args:
        source: Folder of a run, or a trace. Without the folder the ways of the dataset's
            trajectories are not known.
        out: The page; by default replay.html in the folder, or beside the trace.
        episodes: Most episodes that the page shows, of all runs together.

    Raises:
        UserError: there are no traces, or the family's `draw` gives no drawing.
    """
    traces = load_traces(source)
    family = get_family(traces.family)
    story = _Story(traces, family, source)
    shown = shown_episodes(traces.returns.shape[1], max(episodes // len(traces.tasks), 1))
    data = {
        "family": traces.family,
        "bounds": _rounded(np.array(story.bounds), 3),
        "colours": COLOURS,
        "kinds": _KINDS,
        "actions": list(family.action_names or map(str, range(traces.legal.shape[-1]))),
        "runs": [story.run(run, shown) for run in range(len(traces.tasks))],
        "paths": story.paths,
        "tasks": story.dataset_tasks,
    }
    text = json.dumps(data, separators=(",", ":"), default=plain_number)
    html = page("replay.html").render(
        family=traces.family,
        data=text.replace("</", "<\\/"),
        script=(files("maicc.report") / "replay.js").read_text(encoding="utf-8"),
    )
    beside = source if source.is_dir() else source.parent
    path = out or beside / "replay.html"
    write_text(path, html)
    return path


def shown_episodes(episodes: int, n: int) -> list[int]:
    """Chooses n episodes: half of them the first ones, the rest spread up to the last one."""
    first = min((n + 1) // 2, episodes)
    rest = np.linspace(first, episodes - 1, max(n - first, 0)) if first < episodes else np.empty(0)
    return sorted({*range(first), *np.rint(rest).astype(int).tolist()})


class _Story:
    """Plain values of runs and episodes, as the page's script reads them.

    Attributes:
        paths: Places of remembered trajectories, by their names.
        dataset_tasks: Names of the dataset's tasks.
    """

    def __init__(self, traces: Traces, family: TaskFamily, source: Path) -> None:
        self.traces, self.family = traces, family
        every = traces.returns
        self.bounds = family.return_bounds or (float(every.min()), float(every.max()))
        self.paths: dict[str, list[list[float]]] = {}
        dataset = EpisodeFile(source / "episodes.h5")
        self.dataset_tasks: list[str] = []
        self._dataset: EpisodeBatch | None = None
        if traces.source.shape[-1] and dataset.path.exists():
            self.bounds = dataset.spec.bounds
            self.dataset_tasks = [task.name for task in dataset.tasks]
            self._dataset = dataset.mapped()

    def run(self, run: int, shown: Sequence[int]) -> dict[str, Any]:
        """One run with the episodes that are shown."""
        t = self.traces
        return {
            "task": t.tasks[run].name,
            "seed": t.seeds[run],
            "agents": t.rosters[run],
            "returns": _rounded(t.returns[run], 3),
            "episodes": [self._episode(run, episode) for episode in shown],
        }

    def _episode(self, run: int, episode: int) -> dict[str, Any]:
        t, n = self.traces, len(self.traces.rosters[run])
        record = [[int(e) for e in t.record[run, episode, agent] if e >= 0] for agent in range(n)]
        for agent, remembered in enumerate(record):
            for past in remembered:
                self._own_path(run, past, agent)
        board, pictures = self._pictures(run, episode)
        return {
            "number": episode,
            "record": record,
            "board": board,
            "steps": [
                {
                    "picture": picture,
                    "reward": round(float(t.rewards[run, episode, step]), 3),
                    "agents": [self._decision(run, episode, step, agent) for agent in range(n)],
                }
                for step, picture in enumerate(pictures)
            ],
        }

    def _decision(self, run: int, episode: int, step: int, agent: int) -> dict[str, Any] | None:
        """What one agent did and why; None where it is not there."""
        t, at = self.traces, (run, episode, step, agent)
        if not t.alive[at]:
            return None
        percent = np.rint(100 * t.probability[at]).astype(int)
        decision = {
            "action": int(t.actions[at]),
            "percent": np.where(t.legal[at], percent, -1).tolist(),
            "sampled": bool(t.sampled[at]),
            "repeated": int(t.repeated[at]),
        }
        if t.repeated[at] >= 0:
            self._own_path(run, int(t.repeated[at]), agent)
        retrieved = [self._retrieved(at, k) for k in range(t.source.shape[-1])]
        if any(retrieved):
            decision["retrieved"] = [r for r in retrieved if r]
        return decision

    def _retrieved(self, at: tuple[int, int, int, int], k: int) -> list[Any] | None:
        """Source, episode, agent, task, similarity, utility, return and path of one trajectory."""
        t = self.traces
        if t.source[at][k] < 0:
            return None
        episode, agent = int(t.episode[at][k]), int(t.agent[at][k])
        offline = t.source[at][k] == OFFLINE
        path = self._dataset_path(episode, agent) if offline else self._own_path(
            at[0], episode, agent
        )  # fmt: skip
        low, high = self.bounds
        team_return = low + (high - low) * float(t.team_return[at][k])
        numbers = (float(t.similarity[at][k]), float(t.utility[at][k]), team_return)
        return [
            int(t.source[at][k]), episode, agent, int(t.task[at][k]),
            *(round(number, 2) for number in numbers), path,
        ]  # fmt: skip

    def _own_path(self, run: int, episode: int, agent: int) -> str:
        """Names the path of an own episode, and keeps it."""
        t, name = self.traces, f"{run}/{episode}/{agent}"
        played = t.played[run, episode]
        self._keep(name, t.observations[run, episode][played], t.alive[run, episode][played], agent)
        return name

    def _dataset_path(self, episode: int, agent: int) -> str:
        """Names the path of an episode of the dataset, and keeps it."""
        name = f"d/{episode}/{agent}"
        if self._dataset is not None:
            length = int(self._dataset.length[episode])
            seen = self._dataset.observations[episode, :length]
            self._keep(name, seen, self._dataset.alive[episode, :length], agent)
        return name

    def _keep(self, name: str, seen: np.ndarray, present: np.ndarray, agent: int) -> None:
        """Keeps where an agent was in an episode of which (T, N, O) was seen."""
        if self.family.draw is None or name in self.paths:
            return
        places = []
        for observations, there in zip(seen, present, strict=True):
            drawing = drawn(self.family.draw, observations, there, self.family.name)
            places += [[s.x, s.y] for s in drawing.shapes if s.agent == agent]
        self.paths[name] = _rounded(np.array(places).reshape(-1, 2), 2)

    def _pictures(self, run: int, episode: int) -> tuple[dict[str, Any], list[Any]]:
        """The board of an episode, and a picture of each step: shapes, a frame, or numbers."""
        which = (self.family, self.traces, run, episode)
        drawn_steps = drawings(*which)
        if drawn_steps:
            first = drawn_steps[0]
            board = {"width": first.width, "height": first.height, "grid": first.grid}
            return board, [[_plain(shape) for shape in step.shapes] for step in drawn_steps]
        rendered = frames(*which)
        if rendered:
            height, width = rendered[0].shape[:2]
            board = {"width": width, "height": height, "frames": True}
            return board, [_jpeg(frame) for frame in rendered]
        played = self.traces.played[run, episode]
        numbers = _rounded(self.traces.observations[run, episode, played], 2)
        return {"numbers": True}, numbers


def _plain(shape: Shape) -> list[Any]:
    """A shape as plain values: kind, place, size, colour, label, and agent or -1."""
    places = (round(number, 2) for number in (shape.x, shape.y, shape.size))
    agent = -1 if shape.agent is None else shape.agent
    return [_KINDS.index(shape.kind), *places, shape.colour, shape.label, agent]


def _jpeg(frame: np.ndarray) -> str:
    """A small picture of a frame (H, W, 3), as a data address."""
    from PIL import Image

    image, buffer = Image.fromarray(frame), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.convert("RGB").save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rounded(array: np.ndarray, digits: int) -> Any:
    """Nested lists of rounded numbers; whole ones are written short."""
    rounded = np.round(array.astype(float), digits)
    return np.where(rounded == 0, 0, rounded).tolist()
