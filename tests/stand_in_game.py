"""A stand-in for StarCraft II behind `pysc2.run_configs.get`: real messages, a toy battle.

Units move where they are told, a shot takes 10 health or shield, and enemies walk to the nearest
ally and shoot from 6 away for 3.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

from pysc2.lib import protocol
from pysc2.lib.units import Protoss, Terran, Zerg
from s2clientprotocol import raw_pb2, sc2api_pb2

_UNITS = {Protoss.Zealot: (100, 50), Protoss.Stalker: (80, 80), Protoss.Colossus: (200, 150)}
_UNITS |= {Terran.Marine: (45, 0), Terran.Marauder: (125, 0), Terran.Medivac: (150, 0)}
_UNITS |= {Zerg.Zergling: (35, 0), Zerg.Hydralisk: (90, 0), Zerg.Baneling: (30, 0)}
_OURS = [  # the order in which the maps of smacv2 number an ally's unit types, from 1991 on
    Zerg.Baneling, Protoss.Colossus, Zerg.Hydralisk, Terran.Marauder, Terran.Marine,
    Terran.Medivac, Protoss.Stalker, Protoss.Zealot, Zerg.Zergling,
]  # fmt: skip
_SHOT, _THEIR_SHOT, _REACH = 10.0, 3.0, 6.0


class Game:
    """Process and controller in one.

    Args:
        dies: For each death: the step of the battle, or -1 for the setting up, at which the
            connection breaks.
    """

    launched = closed = 0

    def __init__(self, dies: list[int]) -> None:
        self.dies, self.steps = dies, 0
        self.units: dict[int, raw_pb2.Unit] = {}
        self.next_tag = 1
        self.controller = self
        type(self).launched += 1

    def close(self) -> None:
        type(self).closed += 1

    def create_game(self, request) -> None:
        self.seed = request.random_seed

    def join_game(self, request) -> None:
        pass

    def game_info(self):
        info = sc2api_pb2.ResponseGameInfo()
        info.start_raw.map_size.x = info.start_raw.map_size.y = 32
        info.start_raw.playable_area.p1.x = info.start_raw.playable_area.p1.y = 32
        info.start_raw.pathing_grid.bits_per_pixel = 1
        info.start_raw.pathing_grid.data = b"\xff" * (32 * 4)
        info.start_raw.terrain_height.data = b"\x00" * (32 * 32)
        return info

    def data(self):
        return SimpleNamespace(units=range(1991 + len(_OURS)))

    def debug(self, commands) -> None:
        for command in commands:
            for tag in command.kill_unit.tag:
                self.units.pop(tag, None)
            if command.HasField("create_unit"):
                made = command.create_unit
                kind = _OURS[made.unit_type - 1991] if made.owner == 1 else made.unit_type
                health, shield = _UNITS[kind]
                unit = raw_pb2.Unit(
                    tag=self.next_tag, unit_type=made.unit_type, owner=made.owner,
                    health=health, health_max=health, shield=shield, shield_max=shield,
                )  # fmt: skip
                unit.pos.x, unit.pos.y = made.pos.x, made.pos.y
                self.units[self.next_tag] = unit
                self.next_tag += 1

    def actions(self, request) -> None:
        for action in request.actions:
            command = action.action_raw.unit_command
            unit = self.units.get(command.unit_tags[0])
            if unit is None:
                continue
            if command.HasField("target_unit_tag"):
                self._hit(self.units.get(command.target_unit_tag), _SHOT)
            elif command.HasField("target_world_space_pos"):
                unit.pos.x = command.target_world_space_pos.x
                unit.pos.y = command.target_world_space_pos.y

    def _hit(self, unit, damage: float) -> None:
        if unit is None:
            return
        taken = min(unit.shield, damage)
        unit.shield -= taken
        unit.health = max(unit.health - (damage - taken), 0.0)
        if unit.health == 0:
            self.units.pop(unit.tag, None)

    def step(self, count: int) -> None:
        if count < 8:
            return  # setting up, not the battle
        self.steps += 1
        if self.dies and self.steps >= self.dies[0] >= 0:
            self.dies.pop(0)
            raise protocol.ConnectionError("the stand-in breaks off")
        for enemy in [u for u in self.units.values() if u.owner == 2]:
            allies = [u for u in self.units.values() if u.owner == 1]
            if not allies:
                return
            away = lambda u, e=enemy: math.hypot(u.pos.x - e.pos.x, u.pos.y - e.pos.y)  # noqa: E731
            near = min(allies, key=away)
            if away(near) <= _REACH:
                self._hit(near, _THEIR_SHOT)
            else:
                enemy.pos.x += (near.pos.x - enemy.pos.x) / away(near)
                enemy.pos.y += (near.pos.y - enemy.pos.y) / away(near)

    def observe(self):
        if self.dies and self.dies[0] < 0:
            self.dies.pop(0)
            raise protocol.ConnectionError("the stand-in breaks off")
        seen = sc2api_pb2.ResponseObservation()
        seen.observation.raw_data.units.extend(copy.deepcopy(list(self.units.values())))
        return seen


def run_config(dies: list[int]):
    """What `pysc2.run_configs.get` gives: it starts games that share the list `dies`."""
    return SimpleNamespace(
        version=None,
        map_data=lambda path: b"",
        start=lambda **options: Game(dies),
    )
