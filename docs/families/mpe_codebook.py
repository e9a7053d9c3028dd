"""Draws mpe_codebook.svg: three episodes of one task, played by the scripted oracle.

python docs/families/mpe_codebook.py
"""

from pathlib import Path

import numpy as np

from maicc.envs import get_family
from maicc.envs.games.mpe_codebook import LISTENER, WORDS, expert

COLOURS = {"red": "#c0392b", "green": "#27894b", "blue": "#2b62b8"}
BOARD, GAP, TOP = 200, 30, 60  # pixels
SHOWN = 1.6  # height and width of the field that a board shows


def pixel(point: np.ndarray) -> tuple[float, float]:
    """Place of a point of the field on its board."""
    x, y = map(float, point)
    scale, middle = BOARD / SHOWN, BOARD / 2
    return round(middle + x * scale, 1), round(middle - y * scale, 1)


def episode(env, seed: int) -> str:
    """Draws one episode."""
    env.reset(seed=seed)
    path, rng = [env.game_state.mpe.p_pos[1]], np.random.default_rng(0)
    while env.agents:
        seen, *_ = env.step(expert(env, rng))
        path.append(env.game_state.mpe.p_pos[1])
    game = env.game_state.mpe
    goal, word = int(game.goal), int(seen[LISTENER][-WORDS:].argmax())
    parts = [f'<rect width="{BOARD}" height="{BOARD}" fill="#f7f7f5" stroke="#999"/>']
    for i, colour in enumerate(COLOURS.values()):
        x, y = pixel(game.p_pos[2 + i])
        parts.append(f'<circle cx="{x}" cy="{y}" r="7" fill="{colour}"/>')
        if i == goal:
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="14" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
    line = " ".join(f"{x},{y}" for x, y in map(pixel, path))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#444" stroke-width="1.5"/>')
    x, y = pixel(path[0])
    parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="#444"/>')
    name = list(COLOURS)[goal]
    says = [f"the speaker says {name}", f"the listener hears word {word}"]
    parts += [f'<text y="{-28 + 18 * i}">{text}</text>' for i, text in enumerate(says)]
    return "".join(parts)


def main() -> None:
    family = get_family("mpe_codebook")
    env = family.make_env(family.held_out_tasks[1])
    goals: dict[int, int] = {}  # the first seed of each goal
    for seed in range(20):
        env.reset(seed=seed)
        goals.setdefault(int(env.game_state.mpe.goal), seed)
    boards = [
        f'<g transform="translate({GAP + i * (BOARD + GAP)} {TOP})">{episode(env, goals[i])}</g>'
        for i in range(len(COLOURS))
    ]
    width, height = GAP + 3 * (BOARD + GAP), TOP + BOARD + GAP
    picture = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *boards,
        "</svg>",
    ]
    Path(__file__).with_suffix(".svg").write_text("\n".join(picture) + "\n")


if __name__ == "__main__":
    main()
