"""Figures of the report, as SVG text.

They are drawn without pyplot and from matplotlib's own defaults, whatever backend and matplotlibrc
the user has. This module imports neither torch nor lightning.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from maicc.envs.drawing import Drawing, Shape, agent_colour, rgb
from maicc.evaluation.stats import WINDOW, mean_ci95
from maicc.types import Behaviour

COLOURS = ("#2563eb", "#9ca3af", "#dc2626", "#059669", "#d97706", "#7c3aed")
MANY = matplotlib.colormaps["tab20"]
STYLE: dict[Any, Any] = {  # Any: matplotlib's own type lists every key
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "maicc",  # the same data give the same bytes
    "svg.fonttype": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # names may hold dollar signs
}
LONGEST = 40  # characters of a name
MOST = 30  # names in a legend, or panels of a figure


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """Gives a figure, in inches, and the style in which all of it is drawn."""
    with matplotlib.style.context(["default", STYLE]):
        yield Figure(figsize=(width, height))


def short(name: str) -> str:
    """Name of one line and at most `LONGEST` characters."""
    name = "".join(c if c.isprintable() else " " for c in name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _legend(axes: Any, artists: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """Draws a legend; matplotlib itself leaves names out that begin with an underscore."""
    legend = axes.legend(artists, ["name"] * len(names), **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(short(name))


def _svg(figure: Any) -> str:
    """SVG text of a figure."""
    text = io.StringIO()
    figure.savefig(
        text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
    )
    return text.getvalue()[text.getvalue().index("<svg") :]


def adaptation_curve(groups: Mapping[str, np.ndarray], return_max: float) -> str:
    """Draws the mean return per episode with its 95 % interval over runs.

    Args:
        groups: Returns (runs, episodes) of each group of runs.
        return_max: Highest return, drawn as a line.
    """
    with _figure(7.5, 3.6) as figure:
        axes = figure.subplots()
        for i, (name, returns) in enumerate(groups.items()):
            label = f"{name} ({len(returns)} runs)"
            _curve(axes, returns, color=COLOURS[i], label=label, linewidth=1.8)
        _frame(axes, return_max)
        axes.legend(loc="lower right")
        return _svg(figure)


def episode_boards(episodes: Mapping[str, Sequence[Drawing]]) -> str:
    """Draws the end of each episode, with the way that every agent has come.

    Args:
        episodes: Drawings of the steps of each episode, by its title.
    """
    with _figure(3.6 * len(episodes), 3.9) as figure:
        panels = figure.subplots(1, len(episodes), squeeze=False)[0]
        for axes, (title, steps) in zip(panels, episodes.items(), strict=True):
            end = steps[-1]
            axes.set_title(title)
            axes.set(xlim=(0, end.width), ylim=(end.height, 0), aspect="equal")
            for axis, length in ((axes.xaxis, end.width), (axes.yaxis, end.height)):
                axis.set_ticks(np.arange(0, length, end.grid) if end.grid else [], [])
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set(visible=True, color="#d1d5db")
            for shape in end.shapes:
                _shape(axes, shape)
            agents = {s.agent for step in steps for s in step.shapes if s.agent is not None}
            for agent in sorted(agents):
                way = [(s.x, s.y) for step in steps for s in step.shapes if s.agent == agent]
                axes.plot(*np.array(way).T, color=agent_colour(agent), alpha=0.5, linewidth=2)
        return _svg(figure)


def _shape(axes: Any, shape: Shape) -> None:
    """Draws one shape of a drawing."""
    own = "#9ca3af" if shape.agent is None else agent_colour(shape.agent)
    colour, half = np.divide(rgb(shape.colour or own), 255), shape.size / 2
    if shape.kind == "circle":
        axes.add_patch(Circle((shape.x, shape.y), half, color=colour, zorder=3))
    elif shape.kind == "square":
        corner = (shape.x - half, shape.y - half)
        axes.add_patch(Rectangle(corner, shape.size, shape.size, color=colour))
    label = shape.label or ("" if shape.agent is None else str(shape.agent))
    ink = "white" if shape.kind == "circle" else "#111827"
    axes.text(
        shape.x, shape.y, label, ha="center", va="center", color=ink, fontsize=8, zorder=4
    )  # fmt: skip


def benchmark_curves(
    groups: Mapping[str, np.ndarray], flat: Collection[str], return_max: float
) -> str:
    """Draws one curve for each method or variant, named where it ends.

    Args:
        groups: Returns (runs, episodes) of each method.
        flat: Methods that do not adapt. They are drawn as one level, the mean of all episodes.
        return_max: Highest return, drawn as a line.
    """
    with _figure(7.5, max(4.4, 0.17 * len(groups))) as figure:
        axes = figure.subplots()
        ends, colours = {}, {}
        for i, (name, returns) in enumerate(groups.items()):
            colours[name] = _colour(i)
            curve = _running_mean(returns)
            if name in flat:
                curve = np.broadcast_to(returns.mean(1, keepdims=True), returns.shape)
            dashed = "--" if name in flat else "-"
            width, above = (2.8, 3) if i == 0 else (1.4, 2)
            _curve(
                axes, curve, color=colours[name], linestyle=dashed, linewidth=width, zorder=above
            )
            ends[name] = curve[:, -1].mean()
        _frame(axes, return_max)
        axes.set_ylabel(f"team return, mean of {WINDOW} episodes")
        low, high = axes.get_ylim()
        line = 0.185 / figure.get_figheight() * (high - low)  # of a label, in inches
        heights = _separate(np.array([*ends.values()]), line)
        for i, (name, end) in enumerate(ends.items()):
            axes.annotate(
                f"{short(name)} {end:.2f}", (1.01, heights[i]), xycoords=("axes fraction", "data"),
                fontsize=8, va="center", color=colours[name], weight="normal" if i else "bold",
            )  # fmt: skip
        return _svg(figure)


def profile_curves(
    profiles: Mapping[str, Mapping[str, Sequence[float]]], thresholds: Sequence[float]
) -> str:
    """Draws performance profiles: the share of runs whose normalised return is above each value.

    Args:
        profiles: `share` of each method at the thresholds, and, where runs could be resampled, the
            ends `low` and `high` of its 95 % interval.
        thresholds: Normalised returns; 1 is the highest return.
    """
    with _figure(7.5, 4.0) as figure:
        axes, drawn = figure.subplots(), []
        for i, profile in enumerate(profiles.values()):
            colour, width = _colour(i), 1.4 if i else 2.8
            if "low" in profile:
                ends = (profile["low"], profile["high"])
                axes.fill_between(thresholds, *ends, color=colour, alpha=0.12, linewidth=0)
            drawn += axes.plot(thresholds, profile["share"], color=colour, linewidth=width)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("normalised return, mean of the last ten episodes")
        axes.set_ylabel("share of runs above it")
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        _legend(axes, drawn[:MOST], list(profiles)[:MOST], fontsize=8, **place)
        return _svg(figure)


def _colour(i: int) -> Any:
    """Colour of the i-th method."""
    return COLOURS[0] if i == 0 else MANY((2 * i) % 20 + (i >= 10))


def _curve(axes: Any, returns: np.ndarray, *, color: Any, **line: Any) -> None:
    """Draws the mean of (runs, episodes) and its normal 95 % interval."""
    x, (mean, half) = np.arange(1, returns.shape[1] + 1), mean_ci95(returns)
    axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.12, linewidth=0)
    axes.plot(x, mean, color=color, **line)


def _frame(axes: Any, return_max: float) -> None:
    """Draws the highest return, and names the axes."""
    axes.axhline(return_max, color="#111827", linewidth=0.8, linestyle=":")
    axes.annotate("maximum", (1, return_max), fontsize=8, va="bottom")
    axes.set_xlabel("adaptation episode")
    axes.set_ylabel("team return")


def _running_mean(returns: np.ndarray) -> np.ndarray:
    """Mean of the latest `WINDOW` episodes at each episode, of fewer at the start.

    Both `returns` and the result are (runs, episodes).
    """
    total = np.cumsum(np.pad(returns, ((0, 0), (1, 0))), 1)
    end = np.arange(1, returns.shape[1] + 1)
    start = np.maximum(end - WINDOW, 0)
    return (total[:, end] - total[:, start]) / (end - start)


def _separate(values: np.ndarray, gap: float) -> np.ndarray:
    """Moves values as little as possible so that neighbours are at least `gap` apart."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(values, kind="stable")
    # the nearest values that rise by at least `gap`
    steps = gap * np.arange(len(values))
    placed = np.empty(len(values))
    placed[order] = isotonic_regression(values[order] - steps).x + steps
    return placed


def share_curves(shares: Mapping[str, Sequence[float | None]]) -> str:
    """Draws shares of retrieval per episode. None stands for an episode without retrieval."""
    with _figure(7.5, 2.4) as figure:
        axes = figure.subplots()
        for i, (name, values) in enumerate(shares.items()):
            x = np.arange(1, len(values) + 1)
            axes.plot(x, np.array(values, float), color=COLOURS[i], label=name, linewidth=1.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel("adaptation episode")
        axes.set_ylabel("share")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return _svg(figure)


def training_curves(fits: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draws the loss and the accuracy of each fit by step, and those on held-back episodes.

    Args:
        fits: Rows of each fit, with the values that they have.
    """
    panels = [
        (fit, name)
        for fit, rows in fits.items()
        for name in ("loss", "accuracy")
        if any(name in row for row in rows)
    ][:MOST]
    with _figure(7.5, 2.3 * -(-len(panels) // 2)) as figure:
        axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
        for ax, (fit, name) in zip(axes.flat, panels, strict=False):
            curves = {
                "training": (name, COLOURS[1], 1.0),
                "held back": (f"held_back_{name}", COLOURS[0], 1.8),
            }
            for label, (column, colour, width) in curves.items():
                points = [(row["step"], row[column]) for row in fits[fit] if column in row]
                if points:
                    x, y = np.array(points).T
                    ax.plot(x, y, ".-", color=colour, label=label, linewidth=width, markersize=3)
            ax.set_title(f"{short(fit)}: {name}", fontsize=9)
            ax.set_xlabel("step")
        axes[0, 0].legend(fontsize=8)
        figure.tight_layout()
        return _svg(figure)


def return_histogram(
    returns: np.ndarray, behaviour: np.ndarray, behaviours: Sequence[Behaviour]
) -> str:
    """Draws the distribution of the dataset's returns, one panel for each behaviour, six in a row.

    Of more than `MOST` behaviours it draws some, evenly apart.

    Args:
        returns: Return of each episode, (E,).
        behaviour: Number of each episode's behaviour, (E,).
        behaviours: The behaviours.
    """
    shown = np.unique(np.linspace(0, len(behaviours) - 1, MOST).round().astype(int)).tolist()
    n = len(shown)
    rows, columns = -(-n // 6), min(n, 6)
    with _figure(1.9 * columns, 2.4 * rows) as figure:
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        bins = np.linspace(returns.min(), returns.max() + 1e-6, 13)
        for ax in axes.flat[n:]:
            ax.axis("off")
        for ax, i in zip(axes.flat, shown, strict=False):
            level = behaviours[i]
            chosen = returns[behaviour == i]
            weights = np.full(len(chosen), 1 / max(len(chosen), 1))
            ax.hist(chosen, bins, weights=weights, color=COLOURS[0])
            expert = level.name == "expert"
            aim = f"aim {level.target:.0%}, " if expert else f"{short(level.name)}, "
            ax.set_title(f"{aim}reached {level.reached:.0%}", fontsize=8)
            ax.set_xlabel("return")
        axes[0, 0].set_ylabel("share of episodes")
        return _svg(figure)


def key_map(points: np.ndarray, task: np.ndarray, names: Sequence[str]) -> str:
    """Draws keys in the plane, coloured by task.

    Args:
        points: The keys, (P, 2).
        task: Number of each key's task, (P,).
        names: Names of the tasks; of more than `MOST` there is no legend.
    """
    with _figure(6.2, 4.2) as figure:
        axes = figure.subplots()
        shades = matplotlib.colormaps["tab10" if len(names) <= 10 else "turbo"].resampled(
            len(names)
        )
        drawn = []
        for i in range(len(names)):
            x, y = points[task == i].T
            drawn.append(axes.scatter(x, y, s=9, color=shades(i), linewidths=0))
        axes.set_xticks([])
        axes.set_yticks([])
        if len(names) <= MOST:
            place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            _legend(axes, drawn, names, fontsize=8, markerscale=2, **place)
        return _svg(figure)
