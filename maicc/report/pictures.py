"""Pictures of traced episodes: drawings of the family, or frames that it renders, and GIFs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from maicc.envs import TaskFamily, get_family
from maicc.envs.drawing import Drawing, agent_colour, drawn
from maicc.envs.spaces import roster_of
from maicc.errors import located
from maicc.evaluation.traces import Traces, load_traces
from maicc.files import whole_file
from maicc.types import UserError

_OTHER = "#9ca3af"
_SIDE, _MILLISECONDS = 360, 350  # of a picture in a GIF


def drawings(family: TaskFamily, traces: Traces, run: int, episode: int) -> list[Drawing]:
    """Draws the steps of an episode; none if the family has no `draw`.

    Raises:
        UserError: the family's `draw` gave no drawing.
    """
    if family.draw is None:
        return []
    seen, present = traces.observations[run, episode], traces.alive[run, episode]
    return [
        drawn(family.draw, seen[step], present[step], family.name)
        for step in range(int(traces.played[run, episode].sum()))
    ]


def frames(family: TaskFamily, traces: Traces, run: int, episode: int) -> list[np.ndarray]:
    """Plays an episode again in an environment that renders itself; none if it does not.

    An episode that does not come out the same again has no frames either.

    Raises:
        UserError: the environment fails, for example where it needs a display.
    """
    try:
        return _frames(family, traces, run, episode)
    except Exception as error:  # whatever a user's environment raises
        raise UserError(
            f"{family.name}: an episode can't be rendered ({located(error)}); environments that "
            "are made without a render_mode are shown as numbers"
        ) from error


def _frames(family: TaskFamily, traces: Traces, run: int, episode: int) -> list[np.ndarray]:
    """Does the work of `frames`."""
    steps = int(traces.played[run, episode].sum())
    with closing(family.make_env(traces.tasks[run])) as env:
        if getattr(env, "render_mode", None) != "rgb_array":
            return []
        roster = roster_of(env)  # names as they are; a trace keeps them as texts
        seen, _ = env.reset(seed=int(traces.resets[run, episode]))
        rendered: list[np.ndarray] = []
        for step in range(steps):
            kept = traces.observations[run, episode, step]
            for i, agent in enumerate(roster):
                if agent in seen and not _same(seen[agent], kept[i]):
                    return []
            frame = env.render()
            if not isinstance(frame, np.ndarray) or frame.ndim != 3:
                return []
            rendered.append(frame.astype(np.uint8))
            actions = {
                agent: int(traces.actions[run, episode, step, i])
                for i, agent in enumerate(roster)
                if agent in env.agents
            }
            seen = env.step(actions)[0]
    return rendered


def _same(seen: Any, kept: np.ndarray) -> bool:
    """Tells whether an observation is the one that was kept, which is flat and padded."""
    if isinstance(seen, dict):
        seen = seen["observation"]
    flat = np.ravel(np.asarray(seen, np.float32))
    return bool(np.allclose(flat, kept[: len(flat)], atol=1e-4))


def write_gif(source: Path, out: Path, run: int = 0, episode: int = -1) -> Path:
    """Writes one traced episode as an animated GIF, and returns its path.

    Args:
        source: Folder of a run, or a trace.
        run: Which of the traced runs.
        episode: Which episode; -1 is the last one.

    Raises:
        UserError: there is no such episode, or nothing to draw it with.
    """
    from PIL import Image

    traces = load_traces(source)
    family, (runs, episodes) = get_family(traces.family), traces.returns.shape
    if not 0 <= run < runs or not -episodes <= episode < episodes:
        raise UserError(
            f"run {run}, episode {episode}: the traces hold {runs} runs of {episodes} episodes"
        )
    which = (family, traces, run, episode % episodes)
    pictures = [painted(drawing) for drawing in drawings(*which)] or frames(*which)
    if not pictures:
        raise UserError(
            f"{family.name} can't be drawn: give its TaskFamily a `draw`, or make environments "
            'with render_mode="rgb_array"'
        )
    images = [Image.fromarray(picture).quantize(64) for picture in pictures]
    with whole_file(out) as temporary:
        images[0].save(
            temporary,
            "GIF",
            save_all=True,
            append_images=images[1:],
            duration=_MILLISECONDS,
            loop=0,
        )
    return out


def painted(drawing: Drawing) -> np.ndarray:
    """Paints a drawing, (H, W, 3) uint8."""
    from PIL import Image, ImageDraw, ImageFont

    scale = _SIDE / max(drawing.width, drawing.height)
    size = (round(drawing.width * scale), round(drawing.height * scale))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    if drawing.grid:
        for x in np.arange(0, drawing.width, drawing.grid) * scale:
            draw.line([x, 0, x, size[1]], fill="#e5e7eb")
        for y in np.arange(0, drawing.height, drawing.grid) * scale:
            draw.line([0, y, size[0], y], fill="#e5e7eb")
    for shape in drawing.shapes:
        x, y, r = shape.x * scale, shape.y * scale, shape.size * scale / 2
        own = agent_colour(shape.agent) if shape.agent is not None else _OTHER
        colour = shape.colour or own
        box = (x - r, y - r, x + r, y + r)
        paint: dict[str, Callable[..., None]] = {"circle": draw.ellipse, "square": draw.rectangle}
        if shape.kind in paint:
            paint[shape.kind](box, fill=colour)
        label = shape.label or ("" if shape.agent is None else str(shape.agent))
        if label:
            font = ImageFont.load_default(max(2 * r if shape.kind == "text" else r, 8))
            ink = "white" if shape.kind == "circle" else "#111827"
            draw.text((x, y), label, fill=ink, font=font, anchor="mm")
    return np.asarray(image)
