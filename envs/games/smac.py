"""Battles of StarCraft II through the package smacv2. The game itself is installed apart.

Observations are laid out for 12 against 12 and for all races, whatever the size of a task, and
action `ATTACK` + j attacks enemy j. A medivac is the exception: by that action it heals ally j,
where j is a place among the allies that the medivac observes; smacv2 counts all agents.

The game draws its own random numbers from one seed at its start. The seed of an episode therefore
fixes units and spawns, but the battle only nearly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from maicc.envs.adapters import ResetResult, StepResult
from maicc.envs.games.battles import MAX_STEPS, MOST, Battle, battle_families, check_parameters
from maicc.envs.games.smac_policies import ATTACK, NO_OP, STOP, focus_fire
from maicc.streams import Stream
from maicc.types import ObsLayout, OutsideError

RETURN_MAX = 20.0
N_ACTIONS = ATTACK + MOST
# two basic types and the exceptional one, and whether the last may not make a whole team
RACES = {
    "protoss": (("stalker", "zealot", "colossus"), False),
    "terran": (("marine", "marauder", "medivac"), True),
    "zerg": (("zergling", "hydralisk", "baneling"), True),
}
_TYPES = 3
# of an ally: visible, distance, x, y, health; of an enemy "can be shot" in place of visible; then
# the shield, then types by race
_BASIC = 5
_UNIT = _BASIC + 1 + _TYPES * len(RACES)
_MOVES, _POSITION = 4, 2
_OWN = _MOVES + 2 + _POSITION + _TYPES * len(RACES)  # moves, health, shield, position, type
OBSERVATION_SIZE = _OWN + _UNIT * (2 * MOST - 1)
LAYOUT = ObsLayout(
    own=(0, _OWN),
    allies=(_OWN, MOST - 1, _UNIT),
    enemies=(_OWN + _UNIT * (MOST - 1), MOST, _UNIT),
    attack=ATTACK,
    heals=_MOVES + 2 + _POSITION + _TYPES * list(RACES).index("terran") + 2,  # the medivac
)


class Smac(Battle):
    """One battle as a PettingZoo environment.

    Every ally is paid an equal share of the team reward. A battle that is won pays 20 in all,
    whatever is left to destroy. Until then a battle pays no more than 20 less the bonus for
    winning, however often shields regenerate. Dead allies stay in the roster and may only do
    nothing. An illegal action becomes `STOP`, or `NO_OP` if the ally is dead.

    `infos` hold `action_mask`, `alive`, `battle_won` and `game_crashed`. The last tells that
    StarCraft II broke off: the episode is then truncated, and the next reset starts the game anew.

    Args:
        parameters: `race`, `allies`, `enemies`, `seed` and `vary`. If `vary` is true, unit types
            (.45, .45 and .1 of the exceptional one) and spawns are drawn anew in each episode. If
            not, the task's seed draws units of the two basic types, and spawns are fixed.

    Raises:
        UserError: parameters are wrong.
        OutsideError: smacv2 or the game can't be started.
    """

    metadata = {"name": "smac", "render_modes": [], "is_parallelizable": True}  # noqa: RUF012

    def __init__(self, **parameters: Any) -> None:
        check_parameters(parameters, RACES)
        super().__init__(parameters, LAYOUT, OBSERVATION_SIZE)
        self.game: Any = None

    def reset(self, seed: int | None = None, options: dict | None = None) -> ResetResult:
        seed = self.episode_seed(seed)
        wrapper, errors = _smacv2(), _game_errors()
        try:
            self._begin(seed, wrapper)
        except errors:
            self.close()  # once more, with a fresh game
            try:
                self._begin(seed, wrapper)
            except errors as error:
                self.close()
                raise OutsideError(
                    f"StarCraft II can't be started ({type(error).__name__}: {error}); "
                    "`maicc doctor` says what is missing"
                ) from None
        self.agents = list(self.possible_agents)
        self._observations = self._look()
        return self._observations, self._infos({})

    def _begin(self, seed: int, wrapper: Any) -> None:
        """Begins an episode, and starts the game if it is not running."""
        p = self.parameters
        if self.game is None:
            self.game = _make_game(p, wrapper)
        inner = self.game.env
        # with `vary` the episode's seed draws units and spawns, else the task's own
        with _python_random(seed if p["vary"] else p["seed"]) as rng:
            drawn: dict[str, Any] = {}
            for distribution in self.game.env_key_to_distribution_map.values():
                _reseed(distribution, rng)
                drawn |= distribution.generate()
            inner.reset(drawn)
        # smacv2 launches the game again at every reset until one battle has been played out
        inner._episode_count = max(inner._episode_count, 1)
        # smacv2 scales rewards by the first team it drew; this battle's own makes 20 the maximum
        strength = sum(e.health_max + e.shield_max for e in inner.enemies.values())
        inner.max_reward = inner.n_enemies * inner.reward_death_value + inner.reward_win + strength
        self._paid = 0.0

    def step(self, actions: Mapping[str, int]) -> StepResult:
        legal, numbers = self._legal(), self._numbers()
        chosen = [int(actions[agent]) for agent in self.possible_agents]
        chosen = [
            int(numbers[i, a]) if legal[i, a] else (STOP if legal[i, STOP] else NO_OP)
            for i, a in enumerate(chosen)
        ]
        try:
            reward, ended, info = self.game.step(chosen)
            reward = self._bounded(reward, won=info.get("battle_won", False))
            self._observations = self._look()
        except _game_errors() as error:
            self.close()
            print(
                f"smac: the game broke off ({error}); its episode is cut short. `maicc doctor` "
                "says what may be missing, and the game's log why it stops"
            )
            reward, ended, info = 0.0, True, {"game_crashed": True}
        crashed = "game_crashed" in info
        truncated = crashed or bool(info.get("episode_limit", False))
        result = (
            self._observations,
            dict.fromkeys(self.possible_agents, float(reward) / len(self.possible_agents)),
            dict.fromkeys(self.possible_agents, bool(ended) and not truncated),
            dict.fromkeys(self.possible_agents, truncated),
            self._infos(info),
        )
        if ended:
            self.agents = []
        return result

    def close(self) -> None:
        game, self.game = self.game, None
        if game is not None:
            game.close()

    def _bounded(self, reward: float, *, won: bool) -> float:
        """Reward of a step, such that a battle pays 20 if it is won and less until then."""
        inner = self.game.env
        limit = RETURN_MAX * (1 - inner.reward_win / inner.max_reward)  # before the battle is won
        reward = RETURN_MAX - self._paid if won else min(reward, limit - self._paid)
        self._paid += reward
        return reward

    def _numbers(self) -> np.ndarray:
        """Numbers (allies, N_ACTIONS) that the game has for our actions."""
        inner = self.game.env
        numbers = np.tile(np.arange(N_ACTIONS), (len(self.possible_agents), 1))
        for i, unit in inner.agents.items():
            if unit.unit_type == inner.medivac_id:
                numbers[i, ATTACK + i :] += 1  # it does not heal itself
        return numbers

    def _legal(self) -> np.ndarray:
        """Mask of legal actions by our numbers, (allies, N_ACTIONS) bool."""
        legal = np.array(self.game.get_avail_actions(), bool)
        legal = np.pad(legal, [(0, 0), (0, N_ACTIONS + 1 - legal.shape[1])])
        return np.take_along_axis(legal, self._numbers(), 1)

    def _look(self) -> dict[str, np.ndarray]:
        """Observations (OBSERVATION_SIZE,) by agent, rearranged to `LAYOUT`."""
        inner = self.game.env
        race = list(RACES).index(self.parameters["race"])
        shields = int(inner.shield_bits_ally)
        enemies, allies = inner.get_obs_enemy_feats_size(), inner.get_obs_ally_feats_size()
        own_size = inner.get_obs_own_feats_size()
        cuts = np.cumsum([_MOVES, np.prod(enemies), np.prod(allies), own_size])
        # without this, an enemy that no teammate has seen before hides those listed before it
        inner.obs_enemies[:] = 1
        with _python_random(0):  # smacv2 asks the agents in random order
            rows = self.game.get_obs()
        observations = {}
        for agent, row in zip(self.possible_agents, rows, strict=True):
            moves, foes, friends, own_features, _ = np.split(np.asarray(row, np.float32), cuts)
            out = np.zeros(OBSERVATION_SIZE, np.float32)
            out[:_MOVES] = moves
            out[_MOVES : _MOVES + 1 + shields] = own_features[: 1 + shields]
            out[_MOVES + 2 : _MOVES + 4] = own_features[1 + shields : 3 + shields]
            out[_MOVES + 4 + _TYPES * race :][:_TYPES] = own_features[-_TYPES:]
            for units, (start, _, _) in (
                (friends.reshape(allies), LAYOUT.allies),
                (foes.reshape(enemies), LAYOUT.enemies),
            ):
                spread = np.zeros((len(units), _UNIT), np.float32)
                spread[:, : _BASIC + shields] = units[:, : _BASIC + shields]
                first = _BASIC + 1 + _TYPES * race
                spread[:, first : first + _TYPES] = units[:, -_TYPES:]
                out[start : start + spread.size] = spread.ravel()
            observations[agent] = out.clip(-1.0, 1.0)
        return observations

    def _infos(self, info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Infos by agent, from the game's info of a step."""
        n = len(self.possible_agents)
        mask = np.zeros((n, N_ACTIONS), np.int8)
        if self.game is None:
            mask[:, NO_OP] = 1
        else:
            mask[:] = self._legal()
        flags = {
            "battle_won": bool(info.get("battle_won", False)),
            "game_crashed": bool(info.get("game_crashed", False)),
        }
        return {  # only the dead may do nothing
            agent: {"action_mask": mask[i], "alive": not mask[i, NO_OP], **flags}
            for i, agent in enumerate(self.possible_agents)
        }


def _make_game(p: Mapping[str, Any], wrapper: Any) -> Any:
    """Makes the game of smacv2 for the parameters `p` of a task."""
    types, exception = RACES[p["race"]]
    team: dict[str, Any] = {"dist_type": "weighted_teams", "observe": True}
    if p["vary"]:
        team |= {"unit_types": list(types), "weights": [0.45, 0.45, 0.1]}
        if exception:
            team["exception_unit_types"] = [types[-1]]
    else:
        team |= {"unit_types": list(types[:2]), "weights": [0.5, 0.5]}
    config = {"n_units": p["allies"], "n_enemies": p["enemies"], "team_gen": team}
    if p["vary"]:
        spawns = {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32}
        config["start_positions"] = spawns
    game = wrapper(
        capability_config=config,
        map_name=f"10gen_{p['race']}",
        seed=p["seed"],
        obs_own_pos=True,
        use_unit_ranges=True,
        continuing_episode=True,  # tells a time-out from an end
    )
    game.env.episode_limit = MAX_STEPS
    game.env.full_restart = _broke_off  # smacv2 would go on with units of the game that is gone
    return game


def _broke_off() -> None:
    """Raises ConnectionError, in place of the restart that smacv2 would try."""
    raise ConnectionError("the connection to the game was lost")


def _smacv2() -> Any:
    """Class of smacv2's environment.

    Raises:
        OutsideError: smacv2 can't be imported.
    """
    try:
        from smacv2.env.starcraft2.wrapper import StarCraftCapabilityEnvWrapper
    except (ImportError, TypeError) as error:  # TypeError: protobuf in the wrong mode
        first = str(error).strip().splitlines()[0]
        raise OutsideError(
            f"StarCraft II needs smacv2 ({first}); `maicc doctor` says what is missing"
        ) from None
    return StarCraftCapabilityEnvWrapper


def _game_errors() -> tuple[type[Exception], ...]:
    """Exceptions that smacv2, pysc2 and the connection to the game raise."""
    from pysc2.lib import protocol, remote_controller, sc_process
    from smacv2.env.starcraft2.starcraft2 import CannotResetException

    return (
        OSError,  # ConnectionError among them
        RuntimeError,  # no binary that could be run
        ValueError,  # no such map
        protocol.ConnectionError,
        protocol.ProtocolError,
        remote_controller.ConnectError,
        remote_controller.RequestError,
        sc_process.SC2LaunchError,
        CannotResetException,
    )


@contextmanager
def _python_random(seed: int) -> Iterator[np.random.Generator]:
    """Seeds Python's own generator, with which smacv2 shuffles, and restores it afterwards.

    Yields:
        A generator for the numbers that smacv2 draws with NumPy.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield np.random.default_rng([seed, Stream.SMAC_UNITS])
    finally:
        random.setstate(state)


def _reseed(distribution: Any, rng: np.random.Generator) -> None:
    """Replaces the unseeded generators of a distribution, and of its parts, by `rng`."""
    for name, part in vars(distribution).items():
        if name == "rng":
            distribution.rng = rng
        elif hasattr(part, "generate"):
            _reseed(part, rng)


_families = battle_families(
    "smac", "StarCraft II", list(RACES), Smac, LAYOUT, OBSERVATION_SIZE, RETURN_MAX, focus_fire,
    at_once=1,
)  # fmt: skip
smac_protoss, smac_terran = _families["protoss"], _families["terran"]
smac_zerg, smac_all = _families["zerg"], _families["all"]
