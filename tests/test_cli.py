"""The commands as a user types them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from maicc import load_team
from maicc.cli import main
from maicc.cli.commands import COMMANDS
from maicc.cli.options import _variants, shipped_run
from maicc.config import CollectConfig
from maicc.envs import get_family, registry
from maicc.experiments.memory_needed import memory_needed
from maicc.experiments.units import with_overrides
from maicc.types import UserError
from tests.commands import TINY, maicc, refused
from tests.conftest import tiny_config


def test_help_names_every_command(capsys):
    main(["--help"])
    said = capsys.readouterr().out
    for command in ("run", "collect", "fit", "adapt", "report", "tasks"):
        assert f"\n  {command} " in said


def test_tasks(capsys):
    main(["tasks"])
    listed = capsys.readouterr().out
    assert "lbf_7x7" in listed
    assert "lbf_9x9" in listed
    main(["tasks", "lbf_7x7"])
    assert capsys.readouterr().out.count("held out") == 16


def test_a_finished_run_has_everything(tiny_run):
    result = json.loads((tiny_run / "adapt" / "result.json").read_text())
    assert all(run["held_out"] for run in result["runs"])
    assert {"collect", "embedding", "decision"} <= set(result["seconds"])
    training = json.loads((tiny_run / "adapt" / "training.json").read_text())
    assert not any(run["held_out"] for run in training["runs"])
    page = (tiny_run / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")  # self-contained


def test_a_second_call_skips_what_is_finished(tiny_run, capsys):
    from maicc.experiments.run import run

    before = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*") if p.is_file()}
    run(tiny_config(), tiny_run)
    assert capsys.readouterr().out.count("is there") == 6
    assert before == {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_report_of_what_was_finished_before_is_written_again(tiny_run, tmp_path, capsys):
    from maicc.experiments.run import run

    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "adapt" / "result.json").unlink()
    main(["report", str(folder)])
    assert "held-out tasks" not in (folder / "report.html").read_text()
    run(tiny_config(), folder)
    assert "held-out tasks" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_models_of_another_dataset_are_refused(tiny_run, tmp_path):
    from maicc.experiments.run import run
    from maicc.types import UserError

    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "episodes.h5").unlink()
    out = f"--out={folder / 'episodes.h5'}"
    main(["collect", "lbf_7x7", "--episodes=2", "--levels=[1.0]", "--workers=1", out])
    with pytest.raises(UserError, match="another dataset than the one that the models"):
        run(tiny_config(), folder)
    with pytest.raises(UserError, match="another dataset than the one that the models"):
        load_team(folder)


def test_a_result_has_the_name_of_one_and_a_place(tiny_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, message in (
        ("v1.0", "the name of a result ends with .json"),
        ("file/result.json", f"{tmp_path / 'file' / 'result.json'}'"),
    ):
        said = refused(capsys, "adapt", str(tiny_run), f"--out={tmp_path / out}")
        assert message in said


def test_actions_to_be_learned_that_nobody_knows_are_refused_before_training(tiny_run, tmp_path):
    from maicc.experiments.run import run
    from maicc.types import UserError

    shutil.copy(tiny_run / "episodes.h5", tmp_path)
    with h5py.File(tmp_path / "episodes.h5", "a") as file:
        del file["expert_actions"]
    config = tiny_config()
    config.decision.model.labels = "expert"
    with pytest.raises(UserError, match="this dataset has none"):
        run(config, tmp_path)
    assert not (tmp_path / "embedding.ckpt").exists()


def test_how_much_room_the_cache_has_may_change(tiny_run):
    from maicc.experiments.run import run

    changed = tiny_config()
    changed.adapt.memory.cache_gib = 0.1
    run(changed, tiny_run)


def test_another_configuration_in_the_same_folder_is_refused(tiny_run):
    from maicc.experiments.run import run
    from maicc.types import UserError

    changed = tiny_config()
    changed.adapt.episodes = 4
    with pytest.raises(UserError, match=r"adapt\.episodes 3 -> 4.*choose another --out"):
        run(changed, tiny_run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "no command 'dance'"),
        (["run"], "what to run?"),
        (["run", "chess"], "no task family 'chess'"),
        (["run", "none.yaml"], "no such file"),
        (["run", "lbf_7x7", "--nonsense=1"], "nonsense"),
        (["run", "lbf_7x7", "--adapt.episode=5"], "adapt.episode"),  # a part of a name
        (["compare", "lbf_7x7", "--variants=at"], "--variants=at"),
        (["compare", "lbf_7x7", "--method=dpt"], "a comparison starts from MAICC's options"),
        (["run", "lbf_7x7", "--decision.model.k=many"], "decision.model.k"),
        (["run", "lbf_7x7", "--decision.model.k=80"], "candidates=50 must be at least 80"),
        (["run", "lbf_7x7", "--decision.model.heads=7"], "must be a multiple of heads=7"),
        (["run", "lbf_7x7", "--adapt.episodes=0"], "adapt.episodes"),
        (["run", "lbf_7x7", "--seed=-1"], "seed=-1 must be at least 0"),
        (["collect", "lbf_7x7", "--seed=-1"], "seed=-1 must be at least 0"),
        (["collect", "lbf_7x7", "--from-arrays=a.npz", "--from-reference=b.h5"], "not both"),
        (
            ["collect", "lbf_7x7", "--from-arrays=a.npz", "--episodes=3"],
            "--episodes does not go with --from-arrays",
        ),
        (
            ["collect", "lbf_7x7", "--to_minari=a-v0", "--data=a.h5", "--out=b.h5"],
            "--out does not go with --to-minari",
        ),
        (["run", "lbf_7x7", "--decision.model.label_smoothing=1.5"], "label_smoothing=1.5"),
        (
            ["run", "lbf_7x7", "--decision.retrieval.source=own", "--adapt.memory.alpha=0.5"],
            "source=own trains with the defaults",
        ),
        (
            [
                "run",
                "lbf_7x7",
                "--embedding.model.credit=teacher",
                "--embedding.model.teacher=false",
            ],
            "credit=teacher needs a teacher",
        ),
        (["run", "lbf_7x7", "--collect.workers=-2"], "collect.workers=-2"),
        (["run", "lbf_7x7", "--decision.model.dropout=2"], "decision.model.dropout=2"),
        (["run", "lbf_7x7", "--decision.retrieval.index=IVFX"], "index 'IVFX'"),
        (
            [
                "run",
                "lbf_7x7",
                "--embedding.model.attention=factored",
                "--embedding.model.layers=1",
            ],
            "needs embedding.model.layers",
        ),
        (["run", "lbf_7x7", "--adapt.memory.window=0"], "adapt.memory.window=0"),
        (["run", "lbf_7x7", "--adapt.memory.beta=0"], "is read with adapt.memory.schedule=fixed"),
        (["benchmark", "lbf_7x7", "--threads=0"], "--threads=0"),
        (["benchmark", "lbf_7x7", "--variants=none"], "no variant 'none'"),
        (["compare", "lbf_7x7", "--adapt.runs=9"], "one run for each of its --tasks"),
        (["compare", "lbf_7x7", "--methods=maicc,dtt"], "no variant 'dtt'"),
        (["run", "lbf_7x7", "--method=dtt"], "method='dtt' is not one of: maicc, madt"),
        (["run", "lbf_7x7", "--method=at", "--decision.model.episodes=1"], "episodes=1 must be at"),
        (
            ["run", "lbf_7x7", "--method", "dpt", "--decision.model.k", "5"],
            "decision.model.k is no option of method dpt, it is one of maicc",
        ),
        (["run", "lbf_7x7", "--decision.model.window=5"], "it is one of radt"),
        (["run", "lbf_7x7", "--method=madt", "--embedding.steps=5"], "is no option of method madt"),
        (
            ["run", "lbf_7x7", "--adapt.explore=greedy"],
            "adapt.explore is no option of method maicc",
        ),
        (["run", "lbf_7x7", "--embedding.optimiser.learning_rate=.nan"], "must be above 0"),
        (["benchmark", "lbf_7x7", "--method=at", "--variants=k_1"], "no option of method at"),
        (["run", "lbf_7x7", "--collect.levels=[2.0]"], "collect.levels has 2.0"),
        (["collect", "chess"], "no task family 'chess'"),
        (["report", "nowhere"], "no config.json"),
        (["rum", "lbf_7x7"], "no command 'rum' (did you mean run?)"),
        (["run", "--seed=1", "lbf_7x7"], "The name comes first: maicc run NAME"),
        (["run", "lbf_7x7", "--decison.steps=3"], "(did you mean --decision.steps?)"),
        (["run", "lbf_7x7", "--device=gpu"], "Expected one of 'auto', 'cpu', 'cuda'"),
        (["run", "lbf_7x7", "--seed=x"], "Expected a whole number. Got value: x"),
        (["fit"], "what to fit? Give --config FILE.yaml"),
        (["run", "lbf_7x7", "--method=dtp"], "(did you mean dpt?)"),
        (["benchmark", "lbf_7x7", "--variants=defualt"], "(did you mean default?)"),
        (["run", "variants"], "no task family 'variants'"),
        (["run", "battles"], "no task family 'battles'"),
        (["run", "lbf_9x9", "--family=lbf_7x7"], "leave --family=lbf_7x7 out"),
        (["bench", "--part=teachers", "--device=cpu"], "leave --device out"),
        (["adapt", ".", "--out=x.json"], ".: not the folder of a run"),
        (["adapt", "nowhere", "--out=v1.0"], "--out=v1.0: the name of a result ends with .json"),
        (["adapt", "nowhere", "--out=x.json"], "nowhere: no such folder; `maicc run NAME --out"),
    ],
)
def test_bad_input_is_refused_in_a_line_or_two(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *arguments)
    assert message in said
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a, b]", "expected names of variants"),
        ("a: 3", "expected names"),
        ("{", "is not YAML"),
        ("1: {}", "1 is no name of a variant"),
        ("../up: {}", "'../up' is no name of a variant"),
    ],
)
def test_a_file_of_variants_that_is_none(capsys, tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    said = refused(capsys, "benchmark", "lbf_7x7", f"--variants_file={tmp_path / 'mine.yaml'}")
    assert message in said


def test_runs_have_folders_of_their_own(tmp_path, monkeypatch):
    outs = []
    monkeypatch.setattr(
        "maicc.experiments.run.run", lambda config, out, data: outs.append(str(out))
    )
    (tmp_path / "mine.yaml").write_text("family: lbf_9x9\n")
    for arguments in (
        ["lbf_9x9"],
        ["lbf_9x9_paper"],
        ["lbf_9x9", "--method=at"],
        ["--tasks", "maicc.envs.games.lbf:lbf_9x9"],
        [str(tmp_path / "mine.yaml")],
        ["--family=lbf_8x8", "--config", str(tmp_path / "mine.yaml"), "--family=lbf_7x7"],
    ):
        main(["run", *arguments])
    names = [
        "lbf_9x9",
        "lbf_9x9_paper",
        "lbf_9x9-at",
        "maicc.envs.games.lbf.lbf_9x9",
        "mine",
        "lbf_7x7",
    ]
    assert outs == [f"runs/{name}" for name in names]


def test_ad_is_annealed_in_every_family_that_has_an_expert(monkeypatch):
    """With a configuration that comes with maicc, and without one, as in a comparison."""
    seen = []
    monkeypatch.setattr(
        "maicc.experiments.run.run", lambda config, out, data: seen.append(config.collect.anneal)
    )
    for name in ("lbf_7x7", "lbf_8x8"):
        for options in ([], ["--collect.anneal=3"]):
            main(["run", name, "--method=ad", *options])
    assert seen == [25, 3, 25, 3]


def test_adapt_plays_as_the_run_did_unless_told_otherwise(tiny_run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "maicc.evaluation.adapt.adapt_folder", lambda folder, config, *a, **k: seen.append(config)
    )
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["adapt"] |= {"episodes": 7}
    config["adapt"]["memory"] |= {"schedule": "decay", "alpha": 0.8}
    (folder / "config.json").write_text(json.dumps(config))
    main(["adapt", str(folder), f"--out={tmp_path / 'a.json'}"])
    main(["adapt", str(folder), f"--out={tmp_path / 'a.json'}", "--runs=3", "--memory.alpha=0.5"])
    assert [(c.episodes, c.memory.schedule, c.memory.alpha) for c in seen] == [
        (7, "decay", 0.8),
        (7, "decay", 0.5),
    ]
    assert [c.runs for c in seen] == [16, 3]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"family": "lbf_7x7", "adapt": 3}', '{"family": "lbf_7x7", "baseline": {}}'],
)
def test_a_damaged_configuration_of_a_run(capsys, tiny_run, tmp_path, text):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "config.json").write_text(text)
    for command in (["adapt", f"--out={tmp_path / 'a.json'}"], ["report"], ["context"]):
        said = refused(capsys, command[0], str(folder), *command[1:])
        assert "config.json: not " in said
        assert "make it again" in said


def test_adapt_refuses_what_cannot_work(capsys, tiny_run, tmp_path):
    out = f"--out={tmp_path / 'a.json'}"
    said = refused(capsys, "adapt", str(tiny_run), out, "--memory.max_episodes=-1")
    assert "max_episodes=-1 must be at least 0" in said


def test_collect_plays_what_run_does_unless_told_otherwise(monkeypatch):
    played = []
    monkeypatch.setattr(
        "maicc.cli.making._play", lambda family, config, seed, out: played.append(config)
    )
    main(["collect", "--seed", "3", "lbf_levels"])
    main(["collect", "lbf_levels", "--episodes=7"])
    main(["collect", "lbf_7x7"])
    levels = shipped_run("lbf_levels").collect
    assert levels != CollectConfig()
    assert played == [levels, dataclasses.replace(levels, episodes=7), CollectConfig()]


def test_the_run_that_adapts_is_no_value_of_an_option(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("training", "mine"):
        (tmp_path / name).mkdir()
    said = refused(capsys, "adapt", "--tasks", "training", "mine", "--out=x.json")
    assert "mine: not the folder of a run" in said


def test_unknown_key_in_a_file(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("family: lbf_7x7\ncollect: {episode: 3}\n")
    assert "episode" in refused(capsys, "run", str(tmp_path / "mine.yaml"))


def test_a_result_is_not_overwritten(capsys, tiny_run, tmp_path):
    out = tmp_path / "x.json"
    out.write_text("mine")
    assert "is there already" in refused(capsys, "adapt", str(tiny_run), f"--out={out}")
    assert "is there already" in refused(capsys, "collect", "lbf_7x7", f"--out={out}")
    assert out.read_text() == "mine"


def test_each_stage_alone(tiny_run, tmp_path, capsys):
    out = tmp_path / "again.json"
    main(
        [
            "adapt",
            str(tiny_run),
            f"--out={out}",
            "--runs=2",
            "--seed=3",
            "--device=cpu",
        ]
    )
    run = json.loads((tiny_run / "adapt" / "result.json").read_text())
    assert json.loads(out.read_text())["runs"] == run["runs"]
    episodes = tmp_path / "episodes.h5"
    main(["collect", "lbf_7x7", f"--out={episodes}", "--episodes=3", "--levels=[0.0,1.0]",
          "--workers=1", "--seed=3"])  # fmt: skip
    from maicc.data.dataset import EpisodeFile

    assert EpisodeFile(episodes).fingerprint == EpisodeFile(tiny_run / "episodes.h5").fingerprint


@pytest.mark.slow
def test_a_family_of_ones_own_in_the_current_folder(tmp_path):
    """Next to a folder named `envs`, which must not be in the way; with two processes."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('the wrong envs')")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from maicc.envs.games.lbf import lbf_7x7\n"
        "family = replace(lbf_7x7, name='my own')\n"
    )
    small = [o for o in TINY if "workers" not in o]
    maicc("run", "mine:family", *small, "--embedding.steps=3", "--decision.steps=3",
          "--adapt.episodes=2", "--collect.workers=2", "--out=out", cwd=tmp_path)  # fmt: skip
    result = json.loads((tmp_path / "out" / "adapt" / "result.json").read_text())
    assert result["family"] == "mine:family"
    maicc("adapt", "out", "--out=again.json", "--episodes=2", "--runs=2", cwd=tmp_path)


BATTLES = [f"{g}_{kind}" for g in ("smax", "smac") for kind in ("protoss", "terran", "zerg", "all")]
BATTLES.append("smax_commander")


@pytest.mark.parametrize("name", ["lbf_7x7", "lbf_9x9", *BATTLES])
def test_shipped_configurations_parse(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", name, "--print_config"])
    assert not stop.value.code
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["family"] == name
    encoders = [shown[fit]["model"]["encoder"] for fit in ("embedding", "decision")]
    assert encoders == (["entities"] * 2 if name in BATTLES else ["flat", "fourier"])


def test_json_stands_alone_where_an_environment_prints(tiny_run, monkeypatch, capsys):
    family = get_family("lbf_7x7")

    def loud(**parameters):
        print("hello")
        return family.make(**parameters)

    monkeypatch.setitem(registry._registered, "lbf_7x7", dataclasses.replace(family, make=loud))
    main(["credit", str(tiny_run)])
    said = capsys.readouterr()
    assert "step_correlation" in json.loads(said.out)
    assert "hello" in said.err


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setitem(COMMANDS, "tasks", lambda argv: print("2 \N{PLUS-MINUS SIGN} 1"))
    main(["tasks"])
    assert shown.buffer.getvalue() == b"2 ? 1\n"


def test_a_reader_that_has_read_enough(tmp_path):
    command = f"{sys.executable} -m maicc tasks lbf_7x7 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.parametrize("interrupt", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_is_told_as_ctrl_c(monkeypatch, capsys, interrupt):
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run behind &
    monkeypatch.setitem(COMMANDS, "run", lambda argv: signal.raise_signal(interrupt))
    try:
        with pytest.raises(SystemExit) as stop:
            main(["run"])
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert stop.value.code == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_commands_draw_without_the_backend_of_a_notebook(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    main(["--version"])
    assert os.environ["MPLBACKEND"] == "Agg"


def test_a_file_of_variants_is_read_as_a_runs_yaml(tmp_path):
    path = tmp_path / "v.yaml"
    path.write_text("fast: {decision.optimiser.learning_rate: 1e-3, collect.levels: [1e-1, 1]}\n")
    (options,) = _variants(path, "fast").values()
    config = with_overrides(tiny_config(), options)
    assert config.decision.optimiser.learning_rate == 0.001
    assert config.collect.levels == [0.1, 1]
    path.write_bytes(b"\xff\xfe: 1")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        _variants(path, "fast")


@pytest.mark.parametrize("command", [["run", "lbf_7x7"], ["collect", "lbf_7x7"]])
def test_a_seed_has_an_upper_end(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert "2147483648" in refused(capsys, *command, f"--seed={2**31}")
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_a_run_is_told():
    config = tiny_config()
    crowd = dataclasses.replace(get_family("lbf_7x7"), sizes=(30, 2, 3), max_steps=1000)
    config.embedding.batch_size = 1
    attention = 5 * (1000 * 61) ** 2 / 2**30  # the tokens squared in truth values and in numbers
    told = "embedding.window, embedding.model.attention=factored"

    def gibibytes(what):
        said = memory_needed(config, crowd)
        assert what in said
        return float(said.split(f" for {what}")[0].split()[-1])

    joint = gibibytes(f"a step of training ({told})")
    assert joint > attention
    config.embedding.model.attention = "factored"
    assert joint - gibibytes("a step of training") == pytest.approx(attention, abs=0.11)
    config.embedding.window = 10
    assert gibibytes("a step of training (decision.batch_size)") < 1.0
    before = gibibytes("what the teams live through")
    config.adapt.episodes *= 1000
    assert gibibytes("what the teams live through") > 100 * before
    config.adapt.traces = 2
    agents_steps = 2 * config.adapt.episodes * 1000 * 30
    assert gibibytes("traces (adapt.traces)") == pytest.approx(
        agents_steps * (4 * 2 + 5 * 3 + 8) / 2**30, abs=0.06
    )


@pytest.mark.parametrize("method", ["maicc", "madt", "at", "radt", "ad", "dpt", "hissd"])
def test_the_memory_of_every_method_is_told(method):
    assert "GiB" in memory_needed(tiny_config(method), get_family("lbf_7x7"))


def test_a_collection_that_another_process_makes_is_waited_for(tmp_path, capsys):
    arguments = ["collect", "lbf_7x7", "--episodes=1", "--levels=[1.0]", "--workers=1"]
    main([*arguments, f"--out={tmp_path / 'x.h5'}"])
    real = Path.exists

    def exists_later(self):
        return real(self) and not (self.name == "x.h5" and len(looked) < 1 and not looked.append(1))

    looked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", exists_later)  # it was not there at first
        main([*arguments, f"--out={tmp_path / 'x.h5'}"])
        assert f"{tmp_path / 'x.h5'} is there" in capsys.readouterr().out
        looked.clear()
        said = refused(capsys, *arguments, "--seed=1", f"--out={tmp_path / 'x.h5'}")
        assert "another process has made it, with other options" in said
