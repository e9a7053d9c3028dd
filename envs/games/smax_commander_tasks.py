"""Draws battles and lists those that are won by who knows the commander, and rarely by a guess.

`python -m maicc.envs.games.smax_commander_tasks` writes the list of `smax_commander` anew, and
prints how often scripts win the listed tasks in games that had no say in the choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from maicc.envs.batch import BatchStep
from maicc.envs.games.smax_commander import (
    LAYOUT,
    SIDES,
    TASKS,
    CommanderBatch,
    smax_commander,
    tasks,
)
from maicc.envs.games.smax_policies import MOVES, hunt
from maicc.files import write_text
from maicc.streams import Stream
from maicc.types import Task

SIZES = ((3, 4), (3, 5), (4, 5), (4, 6), (4, 7), (5, 6), (5, 7))  # allies, enemies, in turn
COMPOSITIONS = 406  # that are drawn
HUNTER = 0.85  # who hunts the commander first wins at least
NEAREST = 0.2  # attack-the-nearest wins at most
OTHERS = 0.15  # who hunts another one first wins at most, on average over those who may command
COMMANDERS = 4  # of each composition at least, so that it does not tell who commands
EVERY = 14  # one composition of so many is held out
GAMES = 16  # of each composition and enemy who is hunted first
_AT_ONCE = 32  # tasks that are played side by side

# games, number of a game, what all games showed, random numbers -> actions by agent
Script = Callable[[CommanderBatch, int, BatchStep, np.random.Generator], Mapping[str, int]]


def hunter(
    games: CommanderBatch, row: int, shown: BatchStep, rng: np.random.Generator
) -> Mapping[str, int]:
    """Plays as the family's expert."""
    return hunt(games.envs[row], rng)


def nearest(
    games: CommanderBatch, row: int, shown: BatchStep, rng: np.random.Generator
) -> Mapping[str, int]:
    """Plays as the family's first behaviour."""
    act = smax_commander.behaviour_policies[0]
    sights = zip(games.rosters[row], shown.observations[row], shown.action_mask[row], strict=False)
    return {agent: act(seen, mask, agent, rng) for agent, seen, mask in sights}


def won_by(
    battles: Sequence[Mapping[str, Any]], script: Script, games: int, seed: int
) -> np.ndarray:
    """Plays battles, with a progress bar.

    Args:
        battles: Parameters of each task.
        script: Player.
        games: Games of each task.
        seed: Seed of the games.

    Returns:
        Share of each task's games that are won, (len(battles),).
    """
    shares = []
    with tqdm(desc=script.__name__, unit="task", total=len(battles)) as bar:
        for start in range(0, len(battles), _AT_ONCE):
            some = battles[start : start + _AT_ONCE]
            batch = CommanderBatch([Task("", "", p) for p in some for _ in range(games)])
            rng = np.random.default_rng([seed, Stream.COMMANDER_TRIALS, start])
            shown = batch.reset(rng.integers(2**31, size=len(batch.tasks)).tolist())
            while not shown.done.all():
                actions = np.zeros(batch.agent_mask.shape, np.int64)  # (B, A)
                for b in np.flatnonzero(~shown.done).tolist():
                    for agent, action in script(batch, b, shown, rng).items():
                        actions[b, batch.rosters[b].index(agent)] = action
                shown = batch.step(actions)
            shares.append(batch.won.reshape(-1, games).mean(1))
            bar.update(len(some))
    return np.concatenate(shares)


def felled(compositions: Sequence[Mapping[str, Any]], games: int, seed: int) -> list[np.ndarray]:
    """Plays battles without a commander, in which an enemy is hunted first, then the nearest one.

    As long as the commander stands, nothing shows that there is one. So who fells an enemy in these
    games wins those in which that enemy commands.

    Args:
        compositions: `allies`, `enemies` and `seed` of each.
        games: Games of each composition and enemy that is hunted first.
        seed: Seed of the games.

    Returns:
        For each composition the share of the games in which an enemy (column) falls while an ally
        stands, if another (row) is hunted first, (enemies, enemies).
    """
    battles = _battles(compositions)
    shares = []
    with tqdm(desc="felled", unit="battle", total=len(battles)) as bar:
        for start in range(0, len(battles), _AT_ONCE):
            some = battles[start : start + _AT_ONCE]
            batch = CommanderBatch([Task("", "", p) for p in some for _ in range(games)])
            prey = SIDES[0] + np.array([p["commander"] for p in batch.tasks])  # (B,)
            batch.commands = np.zeros((len(prey), sum(SIDES)), bool)
            rng = np.random.default_rng([seed, Stream.COMMANDER_TRIALS, start])
            shown = batch.reset(rng.integers(2**31, size=len(prey)).tolist())
            fell = np.zeros((len(prey), SIDES[1]), bool)
            while not shown.done.all():
                running = ~shown.done
                shown = batch.step(_hunt(batch, shown, prey))
                ours, theirs = np.split(batch.known["alive"].astype(bool), [SIDES[0]], axis=1)
                fell |= ~theirs & (running & ours.any(1))[:, None]
            shares.append(fell.reshape(-1, games, SIDES[1]).mean(1))
            bar.update(len(some))
    rows = iter(np.concatenate(shares))
    return [
        np.stack([next(rows)[:m] for _ in range(m)]) for m in (c["enemies"] for c in compositions)
    ]


def _battles(compositions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lists each composition with each of its enemies as the commander."""
    return [
        {**{key: c[key] for key in ("allies", "enemies", "seed")}, "commander": i}
        for c in compositions
        for i in range(c["enemies"])
    ]


def _hunt(games: CommanderBatch, shown: BatchStep, prey: np.ndarray) -> np.ndarray:
    """Chooses actions (B, A) of teams that hunt their prey, or the nearest enemy if it has fallen.

    The nearest is that to the middle of the team.

    Args:
        prey: Place among all units, (B,).
    """
    position, alive = games.known["position"], games.known["alive"].astype(bool)
    ours, rows = alive[:, : SIDES[0]], np.arange(len(prey))
    middle = (position[:, : SIDES[0]] * ours[..., None]).sum(1) / ours.sum(1).clip(1)[:, None]
    distance = np.linalg.norm(position - middle[:, None], axis=-1)
    distance[:, : SIDES[0]] = np.inf
    distance[~alive] = np.inf
    target = np.where(alive[rows, prey], prey, distance.argmin(1))
    way = position[rows, target][:, None] - position[:, : SIDES[0]]  # (B, A, 2)
    shot = np.broadcast_to(target[:, None] - SIDES[0] + LAYOUT.attack, ours.shape)
    can_shoot = np.take_along_axis(shown.action_mask, shot[..., None], -1)[..., 0].astype(bool)
    chosen = np.where(can_shoot, shot, (way @ MOVES.T).argmax(-1))
    legal = np.take_along_axis(shown.action_mask, chosen[..., None], -1)[..., 0].astype(bool)
    return np.where(legal, chosen, shown.action_mask.argmax(-1))  # a fallen unit can only stop


def commanders(wins: np.ndarray, fought: np.ndarray) -> list[int]:
    """Chooses the enemies of a composition who may command.

    The hunter must win, and a plain fight must lose, and so must who hunts another one of them
    first. Enemies who fall too often then are left out, the worst of them first.

    Args:
        wins: Share of games in which an enemy (column) falls if another (row) is hunted first.
        fought: Share of games that attack-the-nearest wins, by commander.
    """
    chosen = [i for i in range(len(wins)) if wins[i, i] >= HUNTER and fought[i] <= NEAREST]
    while len(chosen) > 1:
        among = wins[np.ix_(chosen, chosen)]
        others = (among.sum(0) - among.diagonal()) / (len(chosen) - 1)
        if others.max() <= OTHERS:
            break
        chosen.pop(int(others.argmax()))
    return chosen


def main() -> None:
    """Draws compositions, keeps those that fit, and writes and checks the list."""
    drawn = [
        {"allies": allies, "enemies": enemies, "seed": seed}
        for seed in range(COMPOSITIONS)
        for allies, enemies in [SIZES[seed % len(SIZES)]]
    ]
    battles = _battles(drawn)
    fought = iter(won_by(battles, nearest, GAMES, 0))
    fitting = [
        commanders(wins, np.array([next(fought) for _ in wins])) for wins in felled(drawn, GAMES, 0)
    ]
    kept: list[dict[str, Any]] = [
        {**composition, "commanders": chosen}
        for composition, chosen in zip(drawn, fitting, strict=True)
        if len(chosen) >= COMMANDERS
    ]
    kept = [{**c, "held_out": i % EVERY == 0} for i, c in enumerate(kept)]
    write_text(TASKS, "[\n" + ",\n".join(json.dumps(c) for c in kept) + "\n]\n")
    print(f"{len(kept)} of {len(drawn)} compositions kept")
    for kind, held_out in (("training", False), ("held-out", True)):
        listed = list(tasks(held_out=held_out).values())
        won = [won_by(listed, script, GAMES, 1).mean() for script in (hunter, nearest)]
        some = [c for c in kept if c["held_out"] == held_out]
        again = zip(some, felled(some, GAMES, 1), strict=True)
        guess = sum(wins[:, c["commanders"]].sum(1).max() for c, wins in again) / len(listed)
        print(
            f"{len(listed)} {kind} tasks: hunter {won[0]:.1%}, nearest {won[1]:.1%}, hunter of the "
            f"likeliest enemy of each composition {guess:.1%}"
        )


if __name__ == "__main__":
    main()
