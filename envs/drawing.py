"""Pictures of a game as shapes: what a family's `draw` gives for `maicc replay`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import ImageColor

from maicc.files import first_line
from maicc.types import UserError

COLOURS = (
    "#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#4f46e5",
    "#b45309", "#0d9488", "#9333ea", "#475569",
)  # of agents, in turn  # fmt: skip
Kind = Literal["circle", "square", "text"]


class Shape(NamedTuple):
    """One thing on a board. Places and sizes are in the board's units, y goes downwards."""

    kind: Kind
    x: float  # of its middle
    y: float
    size: float = 0.8  # width of a circle or a square, height of a text
    colour: str = ""  # #rrggbb, rgb(r, g, b) or a name; the agent's own, or grey, by default
    label: str = ""  # written on it
    agent: int | None = None  # number of the agent that it is


class Drawing(NamedTuple):
    """One picture: what the team sees at one step."""

    width: float
    height: float
    shapes: Sequence[Shape]
    grid: float = 0.0  # distance of the lines of a grid; 0 draws none


# `draw(observations, present)`: what the agents see, (N, O) float32, and who is there, (N,) bool
Draw = Callable[[np.ndarray, np.ndarray], Drawing]


def drawn(draw: Draw, observations: np.ndarray, present: np.ndarray, family: str) -> Drawing:
    """Lets a family draw one step.

    Raises:
        UserError: its `draw` fails, or gives no drawing.
    """
    try:
        drawing = draw(observations, present)
    except Exception as error:  # whatever a user's function raises
        what = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{family}: its draw failed ({what:.200})") from error
    return checked(drawing, family)


def checked(drawing: Drawing, family: str) -> Drawing:
    """Checks what a family has drawn.

    Raises:
        UserError: it is no drawing, a number is not finite, or a colour is not known.
    """
    if not isinstance(drawing, Drawing) or not all(isinstance(s, Shape) for s in drawing.shapes):
        raise UserError(f"{family}: draw gave {drawing!r:.100}, expected a Drawing of Shapes")
    numbers = [drawing.width, drawing.height, drawing.grid]
    for shape in drawing.shapes:
        if shape.kind not in get_args(Kind):
            raise UserError(f"{family}: draw gave a {shape.kind!r}, there are {get_args(Kind)}")
        if not isinstance(shape.label, str):
            raise UserError(f"{family}: draw gave the label {shape.label!r:.50}, expected a text")
        try:
            rgb(shape.colour or COLOURS[0])
        except ValueError:
            raise UserError(
                f"{family}: draw gave the colour {shape.colour!r}; expected one as #2563eb, "
                "rgb(37, 99, 235) or steelblue"
            ) from None
        numbers += [shape.x, shape.y, shape.size]
    if not np.isfinite(np.array(numbers, float)).all() or min(numbers[:2]) <= 0:
        raise UserError(f"{family}: draw gave a number that is not finite, or an empty board")
    return drawing


@lru_cache
def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue of a colour, from 0 to 255; an alpha follows if it has one.

    Raises:
        ValueError: there is no such colour.
    """
    return ImageColor.getrgb(colour)


def agent_colour(agent: int) -> str:
    """The colour of an agent."""
    return COLOURS[agent % len(COLOURS)]


def cell(place: Sequence[float], kind: Kind = "square", **options: Any) -> Shape:
    """Makes a shape in a cell (row, column) of a board of rows and columns, counted from 0."""
    row, col = place
    return Shape(kind, float(col) + 0.5, float(row) + 0.5, **options)
