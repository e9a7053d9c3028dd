"""Draws the pictures of the foraging families: `python docs/families/pictures.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from maicc.envs import get_family

COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed")
STEPS = (0, 3, 6)  # of the episode that is drawn


def board(axes, env, title, hidden):
    """Draws foods, agents and, in grey, what is hidden of each agent."""
    size = env.size
    axes.set_title(title, fontsize=10)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xticks(np.arange(-0.5, size), [])
    axes.set_yticks(np.arange(-0.5, size), [])
    axes.tick_params(length=0)
    axes.grid(True, color="#e5e7eb")
    axes.set_aspect("equal")
    for (row, col), level in env.foods.items():
        axes.add_patch(plt.Rectangle((col - 0.4, row - 0.4), 0.8, 0.8, color="#fca5a5"))
        axes.text(col, row, str(level), ha="center", va="center", fontsize=10)
    for i, (row, col) in enumerate(env.positions):
        axes.add_patch(plt.Circle((col, row), 0.38, color=COLOURS[i]))
        axes.text(col, row, hidden[i], ha="center", va="center", color="white", fontsize=9)


def film(family, task, seed, hidden):
    """Draws some steps of an episode that the expert plays."""
    env = family.make_env(task)
    env.reset(seed=seed)
    rng = np.random.default_rng(0)
    figure, panels = plt.subplots(1, len(STEPS), figsize=(9, 3.2))
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            board(panels[STEPS.index(step)], env.unwrapped, f"step {step}", hidden)
        if env.agents:
            env.step(family.expert(env, rng))
    path = Path(__file__).parent / f"{family.name}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "maicc", "svg.fonttype": "none"})
    levels = get_family("lbf_levels")
    task = levels.held_out_tasks[0]
    film(levels, task, 1, [str(level) for level in task.parameters["levels"]])
    partners = get_family("lbf_partners")
    film(partners, partners.held_out_tasks[0], 3, ["", "", "?"])
