"""Scripted commander for StarCraft II, to make data with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NO_OP, STOP, ATTACK = 0, 1, 6  # 2 to 5 move north, south, east, west
_SHOT = 10.0  # about what a unit's attack takes


def focus_fire(env: Any, rng: np.random.Generator) -> Mapping[str, int]:
    """Commands all allies with sight of the whole battle.

    Units shoot the weakest enemy in range, but no more of them shoot than it takes. Medivacs heal
    the weakest ally in range. The others move to the nearest enemy.
    """
    inner = env.unwrapped.game.env
    legal = np.array(inner.get_avail_actions(), bool)
    enemies = {j: e for j, e in inner.enemies.items() if e.health > 0}
    remaining = {j: e.health + e.shield for j, e in enemies.items()}
    actions = dict.fromkeys(env.possible_agents, NO_OP)
    for i in np.argsort(legal[:, ATTACK:].sum(1), kind="stable"):  # the fewest targets first
        unit, agent = inner.agents[int(i)], env.possible_agents[i]
        if unit.health <= 0 or not enemies:
            continue
        if unit.unit_type == inner.medivac_id and legal[i, ATTACK:].any():
            wounded = np.flatnonzero(legal[i, ATTACK:])
            weakest = min(wounded, key=lambda j: inner.agents[int(j)].health)
            actions[agent] = ATTACK + int(weakest) - int(weakest > i)  # oneself is no ally
            continue
        targets = [j for j in np.flatnonzero(legal[i, ATTACK:]) if remaining.get(int(j), 0) > 0]
        targets = targets or list(np.flatnonzero(legal[i, ATTACK:]))
        if targets:
            target = int(min(targets, key=lambda j: remaining.get(int(j), 0.0)))
            actions[agent] = ATTACK + target
            remaining[target] = remaining.get(target, 0.0) - _SHOT
            continue
        nearest = min(
            enemies.values(),
            key=lambda e: (e.pos.x - unit.pos.x) ** 2 + (e.pos.y - unit.pos.y) ** 2,
        )
        x, y = nearest.pos.x - unit.pos.x, nearest.pos.y - unit.pos.y
        wish = np.where(legal[i, 2:ATTACK], [y, -y, x, -x], -np.inf)
        actions[agent] = 2 + int(wish.argmax()) if legal[i, 2:ATTACK].any() else STOP
    return actions
