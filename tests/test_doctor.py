from __future__ import annotations

import pytest

import maicc
from maicc.cli import doctor as module
from maicc.cli import main
from maicc.cli.doctor import doctor, report

HERE = {"faiss-cpu": "1.15.1", "lightning": "2.6.6", "torch": "2.13.0"}


def findings_with(monkeypatch, packages, **environment):
    monkeypatch.setattr(module, "_installed", packages.get)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return {f.name: f for f in doctor()}


def test_order_and_what_is_missing(monkeypatch, tmp_path):
    findings = findings_with(monkeypatch, HERE, SC2PATH=str(tmp_path / "nowhere"))
    assert list(findings) == [
        "folders", "faiss", "lightning", "torch", "device", "ray", "tensorboard", "wandb", "mlflow",
        "jaxmarl", "smacv2", "pysc2", "protobuf mode", "SC2PATH", "StarCraft II", "SMAC maps",
    ]  # fmt: skip
    missing = [name for name, f in findings.items() if not f.fine]
    assert missing == list(findings)[5:]
    assert all(findings[name].fix for name in missing)
    lines: list[str] = []
    assert report(list(findings.values()), lines.append)  # none of it is needed by every run
    assert 'pip install "maicc[smax]"' in "\n".join(lines)


def test_two_builds_of_faiss_are_an_error(monkeypatch):
    findings = findings_with(monkeypatch, {**HERE, "faiss-gpu-cu12": "1.10"})
    assert not findings["faiss"].fine
    assert "pip uninstall -y faiss-cpu faiss-gpu-cu12" in findings["faiss"].fix
    assert not report(list(findings.values()), lambda line: None)


def test_a_build_of_faiss_without_new_gpus_is_named(monkeypatch):
    others = {name: release for name, release in HERE.items() if name != "faiss-cpu"}
    findings = findings_with(monkeypatch, {**others, "faiss-gpu-cu12": "1.14.1"})
    assert findings["faiss"].fine
    assert "H100" in findings["faiss"].state


@pytest.mark.parametrize(
    ("protobuf", "mode", "fine"),
    [("3.20.3", "", True), ("6.1", "", False), ("6.1", "python", True)],
)
def test_protobuf(monkeypatch, protobuf, mode, fine):
    packages = {**HERE, "protobuf": protobuf}
    findings = findings_with(monkeypatch, packages, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=mode)
    assert findings["protobuf mode"].fine == fine


def test_an_installed_game_is_found(monkeypatch, tmp_path):
    (tmp_path / "Versions" / "Base75689").mkdir(parents=True)
    (tmp_path / "Versions" / "Base75689" / "SC2_x64").touch()
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (tmp_path / "Maps" / "SMAC_Maps" / "3m.SC2Map").touch()  # of the first SMAC
    (tmp_path / "Maps" / "SMAC_Maps" / "10gen_zerg.SC2Map").touch()
    maps = findings_with(monkeypatch, HERE, SC2PATH=str(tmp_path))["SMAC maps"]
    assert (maps.fine, maps.state) == (False, "no 10gen_protoss.SC2Map, 10gen_terran.SC2Map")
    for race in ("protoss", "terran"):
        (tmp_path / "Maps" / "SMAC_Maps" / f"10gen_{race}.SC2Map").touch()
    findings = findings_with(monkeypatch, HERE, SC2PATH=str(tmp_path))
    assert all(findings[name].fine for name in ("SC2PATH", "StarCraft II", "SMAC maps"))


def test_the_command(capsys):
    main(["doctor"])
    assert "faiss" in capsys.readouterr().out


def test_links_that_were_checked_out_as_text_files(tmp_path):
    assert module._links().fine
    (tmp_path / "envs").write_text("../envs")
    (tmp_path / "memory").mkdir()
    finding = module._links(tmp_path)
    assert not finding.fine
    assert finding.needed
    assert finding.state == "maicc/envs: text files in place of links"
    assert "git checkout -- maicc/envs" in finding.fix


def test_a_user_without_a_home(monkeypatch):
    for name in ("HOME", "SC2PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])  # no entry
    found = {f.name: f for f in doctor()}["SC2PATH"]
    assert not found.fine
    assert "no such folder" in found.state


def test_another_program_at_work_is_noticed(tmp_path):
    load = tmp_path / "loadavg"
    for text, others in (
        ("0.50 0.40 0.30 1/234 999\n", False),
        ("0.50 0.40 0.30 2/234 999\n", True),
        ("nothing of the kind", False),
    ):
        load.write_text(text)
        assert maicc.others_run(load) == others
    assert not maicc.others_run(tmp_path / "missing")
