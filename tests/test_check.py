from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo import ParallelEnv

from maicc.cli import main
from maicc.data.behaviour import AT_ONCE
from maicc.data.contract import check_contract, check_family, report
from maicc.envs import TaskFamily, get_family, register, registry
from maicc.types import UserError


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr("maicc.data.contract._SECONDS", 0.05)


class Toy(ParallelEnv):
    """Two agents on a line, paid for meeting; `broken` says how it breaks the contract."""

    metadata = {"name": "toy"}  # noqa: RUF012
    render_mode = None

    def __init__(self, goal: int, broken: str = "") -> None:
        self.goal, self.broken = goal, broken
        self.possible_agents = ["left", "right"]
        self._box = spaces.Box(-9.0, 9.0, (3,), np.float32)
        self._move = spaces.Discrete(3)
        if broken == "box actions":
            self._move = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def observation_space(self, agent):
        return self._box

    def action_space(self, agent):
        return self._move

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(None if self.broken == "random reset" else seed)
        self.agents = list(self.possible_agents)
        if self.broken == "changing agents":
            self.agents = ["left", "middle"]
        self.at, self.steps = self.rng.integers(-3, 4, 2), 0
        return self._see(), self._infos()

    def step(self, actions):
        self.steps += 1
        self.at = np.clip(self.at + [actions[a] - 1 for a in self.agents], -5, 5)
        met = (self.at == self.goal).all()
        paid = np.nan if self.broken == "nan reward" and self.steps == 3 else float(met)
        over = self.steps == 8 and not met
        late = self.broken == "time-outs as ends"
        result = (
            self._see(),
            dict.fromkeys(self.agents, paid / 2),
            dict.fromkeys(self.agents, bool(met or (over and late))),
            dict.fromkeys(self.agents, bool(over and not late)),
            self._infos(),
        )
        if met or over:
            self.agents = []
        return result

    def _see(self):
        far = 100.0 if self.broken == "outside its space" and self.steps > 1 else 0.0
        if self.broken == "random reset":
            far = self.rng.random()
        return {
            a: np.array([self.at[i], self.steps / 8, far], np.float32)
            for i, a in enumerate(self.agents)
        }

    def _infos(self):
        n = 4 if self.broken == "wrong mask" else 3
        return {a: {"action_mask": np.ones(n, np.int8)} for a in self.agents}


def family(broken: str = "", **changes) -> TaskFamily:
    return TaskFamily(
        **{
            "name": "toy",
            "make": Toy,
            "training": [{"goal": g, "broken": broken} for g in (-1, 0, 1)],
            "held_out": [{"goal": 2, "broken": broken}],
            "max_steps": 8,
            "return_bounds": (0.0, 1.0),
            **changes,
        }
    )


def test_a_sound_family_passes(capsys):
    lines: list[str] = []
    assert report(check_contract(family()), lines.append)
    items = [line.split()[1] for line in lines]
    assert items == [
        "tasks", "spaces", "episodes", "PettingZoo", "observations", "seeds", "time", "returns",
        "behaviours", "speed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "item", "message"),
    [
        ("changing agents", "episodes", "gave no observation for .'right'.* at reset"),
        ("wrong mask", "episodes", r"action_mask of left has shape \(4,\), expected \(3,\)"),
        ("nan reward", "episodes", r"at step 3: rewards must be finite"),
        ("outside its space", "observations", "left saw 100 at step 2, outside its observation"),
        ("random reset", "seeds", "reset.seed=7. and the same actions gave another episode"),
        ("box actions", "spaces", "discretise others with a wrapper"),
    ],
)
def test_a_broken_contract_has_its_own_message(broken, item, message, capsys):
    verdicts = {v.item: v for v in check_contract(family(broken))}
    failed = [v for v in verdicts.values() if not v.fine and v.item != "PettingZoo"]
    assert [v.item for v in failed] == [item]
    assert re.search(message, failed[0].found)
    try:
        register(family(broken))
        with pytest.raises(SystemExit) as end:
            main(["check", "toy"])
        assert end.value.code == 1
        assert re.search(message, capsys.readouterr().out)
    finally:
        registry._registered.pop("toy")


def test_tasks_bounds_and_history():
    both = {v.item: v for v in check_contract(family(held_out=[{"goal": 0, "broken": ""}]))}
    assert "held out, and trained on as well" in both["tasks"].found
    narrow = {v.item: v for v in check_contract(family(return_bounds=(0.5, 1.0)))}
    assert "outside the family's return_bounds 0.5 to 1" in narrow["returns"].found
    free = {v.item: v for v in check_contract(family(return_bounds=None))}
    assert "bounds will be those of the dataset" in free["returns"].found
    lost = next(iter(check_contract(family(training=[]))))
    assert not lost.fine


@pytest.mark.parametrize("name", ["lbf_9x9", "lbf_7x7"])
def test_shipped_families_pass(name):
    verdicts = list(check_contract(get_family(name)))
    assert all(v.fine for v in verdicts), [v for v in verdicts if not v.fine]


def test_seeds_are_checked_against_history_too():
    class Remembers(Toy):
        games = 0

        def reset(self, seed=None, options=None):
            self.games += 1
            return super().reset((seed or 0) + self.games)

    verdicts = {v.item: v for v in check_contract(dataclasses.replace(family(), make=Remembers))}
    assert "in an environment that had been played before" in verdicts["seeds"].found


def test_environments_that_share_what_changes_are_refused_before_any_work():
    class Shares(Toy):
        @property
        def steps(self):
            return Shares.count

        @steps.setter
        def steps(self, value):
            Shares.count = value

    shared = dataclasses.replace(family(), make=Shares)
    with pytest.raises(UserError, match="keep what changes in `self`"):
        check_family(shared)
    verdicts = {v.item: v for v in check_contract(shared)}
    assert not all(v.fine for v in verdicts.values())
    check_family(family())


def test_the_check_leaves_no_environment_open():
    opened, closed = [], []

    class Counted(Toy):
        def __init__(self, **parameters):
            super().__init__(**parameters)
            opened.append(self)

        def close(self):
            closed.append(self)

    assert all(v.fine for v in check_contract(dataclasses.replace(family(), make=Counted)))
    assert {id(env) for env in opened} == {id(env) for env in closed}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": [{"goal": 0, "broken": ""}]}, "held out, and trained on as well"),
        ({"reveal": lambda p: [0.0] * (2 + p["goal"])}, "give as many finite numbers"),
        ({"reveal": lambda p: [np.nan if p["goal"] == 2 else 0.0]}, "give as many finite numbers"),
        ({"reveal": lambda p: 0.0}, "give as many finite numbers"),
    ],
)
def test_what_would_mislead_is_refused_before_anything_is_played(changes, message):
    with pytest.raises(UserError, match=message):
        check_family(family(**changes))
    failed = [v for v in check_contract(family(**changes)) if not v.fine]
    assert failed[0].item == ("reveal" if "reveal" in changes else "tasks")
    assert message in failed[0].found


def test_many_tasks_are_not_opened_at_once():
    most = [0]

    class Counted(Toy):
        now = 0

        def __init__(self, goal, broken, n):
            super().__init__(goal, broken)
            Counted.now += 1
            most[0] = max(most[0], Counted.now)

        def close(self):
            Counted.now -= 1

    many = [{"goal": 0, "broken": "", "n": n} for n in range(120)]
    check_family(family(make=Counted, training=many[:100], held_out=many[100:]))
    assert most[0] == AT_ONCE
    assert Counted.now == 0


SET = """
from tests.test_check import Toy, family

class Unordered(Toy):
    def __init__(self, **parameters):
        super().__init__(**parameters)
        self.possible_agents = list({"ann", "bob", "cy", "dan", "eve", "fay"})

family = family(make=Unordered)
"""


def test_an_order_of_agents_that_other_processes_do_not_have_is_refused(tmp_path, monkeypatch):
    (tmp_path / "unordered.py").write_text(SET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent.parent}")
    ours = get_family("unordered:family")
    rosters = ours.rosters()
    ours.require_rosters(rosters)
    with pytest.raises(UserError, match="in another process and is"):
        ours.require_rosters([rosters[0][::-1]] * 2)
    verdicts = list(check_contract(ours))
    assert [v.item for v in verdicts if not v.fine] == ["spaces"]
    assert "give the agents a fixed order" in verdicts[-1].found
