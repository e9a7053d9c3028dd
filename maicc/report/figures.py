"""The report's figures, as SVG text. Imports neither torch nor lightning."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from maicc.types import Behaviour

COLOURS = ("#2563eb", "#9ca3af", "#dc2626", "#059669", "#d97706", "#7c3aed")
MANY = matplotlib.colormaps["turbo"]
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "maicc",  # the same data give the same bytes
    "svg.fonttype": "none",
    "legend.frameon": False,
}


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(
        text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
    )
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def adaptation_curve(groups: Mapping[str, np.ndarray], return_max: float) -> str:
    """Mean return per episode with the 95 % interval over runs; groups are (runs, episodes)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 3.6))
        for i, (name, returns) in enumerate(groups.items()):
            colour = COLOURS[i] if len(groups) <= len(COLOURS) else MANY(i / len(groups))
            x, mean = np.arange(1, returns.shape[1] + 1), returns.mean(0)
            spread = returns.std(0, ddof=1) if len(returns) > 1 else np.zeros_like(mean)
            half = 1.96 * spread / len(returns) ** 0.5
            axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, mean, color=colour, label=f"{name} ({len(returns)} runs)", linewidth=1.8)
        axes.axhline(return_max, color="#111827", linewidth=0.8, linestyle=":")
        axes.annotate("maximum", (1, return_max), fontsize=8, va="bottom")
        axes.set_xlabel("adaptation episode")
        axes.set_ylabel("team return")
        if len(groups) <= len(COLOURS):
            axes.legend(loc="lower right")
        else:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
        return _svg(figure)


def share_curves(shares: Mapping[str, Sequence[float | None]]) -> str:
    """Shares of retrieval per episode; None where there was nothing to share."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 2.4))
        for i, (name, values) in enumerate(shares.items()):
            x = np.arange(1, len(values) + 1)
            axes.plot(x, np.array(values, float), color=COLOURS[i], label=name, linewidth=1.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel("adaptation episode")
        axes.set_ylabel("share")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return _svg(figure)


def return_histogram(
    returns: np.ndarray, behaviour: np.ndarray, behaviours: Sequence[Behaviour]
) -> str:
    """The dataset's returns, one panel per level; returns and behaviour are (E,)."""
    with plt.rc_context(STYLE):
        n = len(behaviours)
        figure, axes = plt.subplots(1, n, figsize=(1.9 * n, 2.4), sharex=True, sharey=True)
        bins = np.linspace(returns.min(), returns.max() + 1e-6, 13)
        for i, (ax, level) in enumerate(zip(np.atleast_1d(axes), behaviours, strict=True)):
            mine = returns[behaviour == i]
            ax.hist(mine, bins, weights=np.full(len(mine), 1 / max(len(mine), 1)), color=COLOURS[0])
            aim = f"aim {level.target:.0%}, " if level.name == "expert" else f"{level.name}, "
            ax.set_title(f"{aim}reached {level.reached:.0%}", fontsize=8)
            ax.set_xlabel("return")
        np.atleast_1d(axes)[0].set_ylabel("share of episodes")
        return _svg(figure)


def key_map(points: np.ndarray, task: np.ndarray, names: Sequence[str]) -> str:
    """Keys in the plane, coloured by task; points (P, 2), task (P,)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 4.2))
        shades = plt.get_cmap("tab10" if len(names) <= 10 else "turbo", len(names))
        for i, name in enumerate(names):
            mine = points[task == i]
            axes.scatter(mine[:, 0], mine[:, 1], s=9, color=shades(i), label=name, linewidths=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, markerscale=2)
        return _svg(figure)
