"""Scripts for SMAX, to make data with: two that see all, and the policy of SMAX's own enemies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maicc.envs.games.battles import MOST
from maicc.types import ObsLayout

# SMAX's numbers for its six unit types
ATTACK = np.array([9.0, 10.0, 13.0, 8.0, 5.0, 12.0])
RANGE = np.array([5.0, 6.0, 6.0, 2.0, 2.0, 5.0])
SPEED = np.array([3.15, 2.25, 4.13, 3.15, 4.13, 3.15])
MAP = 32.0
WALL = 1.0  # keep this far from the walls, which kill
STEP_SECONDS = 0.5  # of one action: a weapon that is ready sooner fires within it
MOVES = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
FEATURES, OWN = 13, 10  # of a unit that is seen, and of oneself
LAYOUT = ObsLayout(
    own=(FEATURES * (2 * MOST - 1), OWN),
    allies=(0, MOST - 1, FEATURES),
    enemies=(FEATURES * (MOST - 1), MOST, FEATURES),
    attack=5,
)
_STOP, _FIRST_ATTACK = 4, 5
_CONTACT = 10.0  # nearer than this, a battle has begun
_PATIENCE = 30  # steps to wait for the enemy


def focus_fire(game: Any, rng: np.random.Generator) -> Mapping[str, int]:
    """Waits in formation for the enemy, concentrates fire, and steps back between shots.

    The script sees the whole battle. Units shoot the enemy that falls soonest, but no more of
    them shoot than it takes. Units with long range keep away from those with short range while
    their weapon cools down.
    """
    half = len(game.legal)  # places of the allies
    allies = np.flatnonzero(game.alive[:half])
    enemies = np.flatnonzero(game.alive[half:])
    actions = {f"ally_{i}": _STOP for i in range(half)}
    if not len(allies) or not len(enemies):
        return actions
    offset = game.position[half + enemies][None] - game.position[allies][:, None]  # (a, e, 2)
    distance = np.linalg.norm(offset, axis=-1)
    if distance.min() > _CONTACT and game.steps < _PATIENCE:
        return actions
    kind, reach = game.kind[allies], RANGE[game.kind[half + enemies]]
    legal = game.legal[allies][:, _FIRST_ATTACK + enemies]
    ready = game.cooldown[allies] < STEP_SECONDS
    speed = SPEED[game.kind[half + enemies]]
    margin = np.where(speed > SPEED[kind].min(), 2.5, 0.5)
    remaining = game.health[half + enemies].copy()
    for row in np.argsort(legal.sum(1), kind="stable"):  # those with the fewest targets first
        unit = f"ally_{allies[row]}"
        nearest = int(np.argmin(distance[row]))
        if ready[row] and legal[row].any():
            standing = legal[row] & (remaining > 0)
            targets = standing if standing.any() else legal[row]
            target = int(np.flatnonzero(targets)[np.argmin(remaining[targets])])
            remaining[target] -= ATTACK[kind[row]]
            actions[unit] = _FIRST_ATTACK + int(enemies[target])
        elif not ready[row] and RANGE[kind[row]] > reach[nearest]:
            if distance[row, nearest] < reach[nearest] + margin[nearest]:
                actions[unit] = _away(game.position[allies[row]], offset[row])
        elif not legal[row].any():
            actions[unit] = int(np.argmax(MOVES @ offset[row, nearest]))
    return actions


def hunt(game: Any, rng: np.random.Generator) -> Mapping[str, int]:
    """Shoots the enemy who commands, or goes for it where it is out of range.

    The hunter sees the whole battle, and knows who commands.
    """
    return go_for(game, game.parameters["commander"])


def go_for(game: Any, enemy: int) -> dict[str, int]:
    """Orders all units to shoot an enemy, or to go there where it is out of range."""
    allies, shot = len(game.legal), _FIRST_ATTACK + enemy
    actions = {}
    for i in np.flatnonzero(game.alive[:allies]):
        move = int(np.argmax(MOVES @ (game.position[allies + enemy] - game.position[i])))
        actions[f"ally_{i}"] = shot if game.legal[i, shot] else move
    return actions


def hunt_in_turn(
    observation: np.ndarray,
    action_mask: np.ndarray,
    agent: str,
    rng: np.random.Generator,
    layout: ObsLayout = LAYOUT,
    backwards: bool = False,
) -> int:
    """Hunts the enemies in the order of their numbers, on what one unit sees.

    A unit shoots the first enemy that it sees, or goes for it where it is out of range.

    Args:
        backwards: Whether the highest number comes first.
    """
    enemies = _enemies(observation, layout)
    seen = np.flatnonzero(enemies[:, 0] > 0)
    if not len(seen):
        return int(np.argmax(MOVES @ _to_the_middle(observation, layout)))
    target = int(seen[-1 if backwards else 0])
    shot = _FIRST_ATTACK + target
    return shot if action_mask[shot] else int(np.argmax(MOVES @ enemies[target, 1:3]))


def attack_nearest(
    observation: np.ndarray,
    action_mask: np.ndarray,
    agent: str,
    rng: np.random.Generator,
    layout: ObsLayout = LAYOUT,
) -> int:
    """Fights as SMAX's heuristic enemies do, on what one unit sees.

    The unit shoots the nearest enemy in range. If there is none, it goes towards one of the enemies
    that it sees, and if it sees none, to the middle.
    """
    enemies = _enemies(observation, layout)
    health, offset = enemies[:, 0], enemies[:, 1:3]
    in_range = action_mask[_FIRST_ATTACK:].astype(bool)
    if in_range.any():
        distance = np.where(in_range, np.linalg.norm(offset, axis=1), np.inf)
        return _FIRST_ATTACK + int(np.argmin(distance))
    visible = np.flatnonzero(health > 0)
    towards = offset[rng.choice(visible)] if len(visible) else _to_the_middle(observation, layout)
    return int(np.argmax(MOVES @ towards))


def _enemies(observation: np.ndarray, layout: ObsLayout) -> np.ndarray:
    """Numbers of each enemy, (M, numbers): health, then the place relative to oneself."""
    start, count, size = layout.enemies
    return observation[start : start + count * size].reshape(count, size)


def _to_the_middle(observation: np.ndarray, layout: ObsLayout) -> np.ndarray:
    """The way to the middle of the map, which has side 1, (2,)."""
    return 0.5 - observation[layout.own[0] + 1 :][:2]


def _away(position: np.ndarray, offset: np.ndarray) -> int:
    """Move that leaves the nearest enemy farthest away and does not lead into a wall."""
    after = position + 2.0 * MOVES
    safe = ((after > WALL) & (after < MAP - WALL)).all(1)
    distance = np.linalg.norm(offset[None] - 2.0 * MOVES[:, None], axis=-1).min(1)
    return int(np.argmax(np.where(safe, distance, -1.0)))
