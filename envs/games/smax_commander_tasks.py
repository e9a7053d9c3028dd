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
from maicc.envs.games.smax_commander import SIDES, TASKS, CommanderBatch, smax_commander, tasks
from maicc.envs.games.smax_policies import go_for, hunt
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


def one_then_nearest(
    games: CommanderBatch, row: int, shown: BatchStep, rng: np.random.Generator
) -> Mapping[str, int]:
    """Hunts the enemy that the task calls the commander, then whoever is nearest to the team."""
    game = games.envs[row]
    ours, theirs = np.split(np.flatnonzero(game.alive), [game.alive[: SIDES[0]].sum()])
    prey = SIDES[0] + game.parameters["commander"]  # a place among all units
    if not game.alive[prey]:
        middle = game.position[ours].mean(0)
        prey = theirs[np.linalg.norm(game.position[theirs] - middle, axis=1).argmin()]
    return go_for(game, int(prey) - SIDES[0])


def won_by(
    battles: Sequence[Mapping[str, Any]], script: Script, games: int, seed: int
) -> np.ndarray:
    """Plays battles, and gives the share of each task's games that are won, (len(battles),)."""
    return _play(battles, script, games, seed)[0]


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
    fell = _play(_battles(compositions), one_then_nearest, games, seed, commanded=False)[1]
    sizes = [c["enemies"] for c in compositions]
    parts = np.split(fell, np.cumsum(sizes)[:-1])
    return [part[:, :size] for part, size in zip(parts, sizes, strict=True)]


def _play(
    battles: Sequence[Mapping[str, Any]],
    script: Script,
    games: int,
    seed: int,
    *,
    commanded: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Plays battles, with a progress bar.

    Args:
        battles: Parameters of each task.
        script: Player.
        games: Games of each task.
        seed: Seed of the games.
        commanded: Whether all enemies fall with the commander.

    Returns:
        Of each task's games the share that is won, (len(battles),), and the share in which an enemy
        falls while an ally stands, (len(battles), M).
    """
    won, fell = [], []
    with tqdm(desc=script.__name__, unit="task", total=len(battles)) as bar:
        for start in range(0, len(battles), _AT_ONCE):
            some = battles[start : start + _AT_ONCE]
            batch = CommanderBatch([Task("", "", p) for p in some for _ in range(games)])
            if not commanded:
                batch.commands = np.zeros((len(batch.tasks), sum(SIDES)), bool)
            rng = np.random.default_rng([seed, Stream.COMMANDER_TRIALS, start])
            shown = batch.reset(rng.integers(2**31, size=len(batch.tasks)).tolist())
            fallen = np.zeros((len(batch.tasks), SIDES[1]), bool)
            while not shown.done.all():
                running = ~shown.done
                actions = np.zeros(batch.agent_mask.shape, np.int64)  # (B, A)
                for b in np.flatnonzero(running).tolist():
                    for agent, action in script(batch, b, shown, rng).items():
                        actions[b, batch.rosters[b].index(agent)] = action
                shown = batch.step(actions)
                ours, theirs = np.split(batch.known["alive"].astype(bool), [SIDES[0]], axis=1)
                fallen |= ~theirs & (running & ours.any(1))[:, None]
            won.append(batch.won.reshape(-1, games).mean(1))
            fell.append(fallen.reshape(-1, games, SIDES[1]).mean(1))
            bar.update(len(some))
    return np.concatenate(won), np.concatenate(fell)


def _battles(compositions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lists each composition with each of its enemies as the commander."""
    return [
        {**{key: c[key] for key in ("allies", "enemies", "seed")}, "commander": i}
        for c in compositions
        for i in range(c["enemies"])
    ]


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
