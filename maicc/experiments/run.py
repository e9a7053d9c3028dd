"""The whole pipeline in one folder: dataset, fits, adaptation, report."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import dict_to_namespace

from maicc import __version__
from maicc.baselines import method_of
from maicc.config import RunConfig
from maicc.data.contract import check_family
from maicc.data.dataset import EpisodeFile, put_dataset
from maicc.envs import TaskFamily, get_family
from maicc.evaluation.run_folder import (
    files_of,
    parse_config,
    rename_old_files,
    require_own_dataset,
)
from maicc.evaluation.traces import traces_of
from maicc.experiments.fits import collect_stage, fit_stages
from maicc.experiments.memory_needed import memory_needed
from maicc.experiments.stages import Clock, Stage, run_stage
from maicc.experiments.validate import check, say_not_annealed
from maicc.files import ModelFiles, locked, read_json, write_json
from maicc.types import UserError


def run(config: RunConfig, out: Path, data: Path | None = None) -> None:
    """Runs the stages that are not finished yet in `out`.

    Args:
        data: Dataset that takes the place of collecting. One that lies in `out` already does, too.

    Raises:
        UserError: the configuration or the dataset is wrong, or `out` was made with others.
        KeyboardInterrupt: on Ctrl-C; the same call goes on where it stopped.
    """
    family = get_family(config.family)
    there = data or files_of(out, config).episodes
    dataset = EpisodeFile(there) if data or there.exists() else None
    if dataset is not None:
        dataset.require_family(family)
    check_family(family)
    check(config, family, dataset, collects=data is None)
    if data and config.collect.anneal:
        say_not_annealed(config.method, config, data)
    print(memory_needed(config, family, dataset))
    with locked(out / "run"):
        _run(config, family, out, data)


def _run(config: RunConfig, family: TaskFamily, out: Path, data: Path | None) -> None:
    """Runs the stages of a configuration that was checked, in a folder that is locked."""
    _same_configuration(config, family, out / "config.json", collects=data is None)
    rename_old_files(out, config)
    files = files_of(out, config)
    clock = Clock(out / "stages.json")
    if data is not None:
        put_dataset(data, files.episodes)
    run_stage(collect_stage(config, files, None), clock)
    noted = out / "dataset.json"
    if not noted.exists():
        write_json(noted, {"fingerprint": EpisodeFile(files.episodes).fingerprint})
    require_own_dataset(files.episodes)
    method = method_of(config.method)
    for fit in method.fits:
        if fit not in method.fits_of(config):
            print(f"{fit}: not trained, since nothing reads it with these options")
    for stage in fit_stages(config, files):
        run_stage(stage, clock)
    run_stage(_adapt_stage(config, out, clock, held_out=True), clock)
    if config.adapt.training_runs:
        run_stage(_adapt_stage(config, out, clock, held_out=False), clock)
    run_stage(_report_stage(out, files), clock)


def _adapt_stage(config: RunConfig, out: Path, clock: Clock, *, held_out: bool) -> Stage:
    """Describes the stage that adapts teams to held-out or to training tasks."""
    name = "adapt" if held_out else "adapt (training tasks)"
    result = out / "adapt" / ("result.json" if held_out else "training.json")

    def make() -> None:
        from maicc.evaluation.adapt import adapt_folder

        adapt_folder(
            out, config.adapt, config.seed, result, config.device, held_out=held_out,
            label=name, seconds=clock.seconds,
        )  # fmt: skip

    return Stage(name, result, make)


def _report_stage(out: Path, files: ModelFiles) -> Stage:
    """Describes the stage that writes replay and report; one older than a result is removed."""
    report = out / "report.html"
    sources = (files.episodes, *(out / "adapt").glob("*.json"))
    newest = max(path.stat().st_mtime_ns for path in sources)
    if report.exists() and report.stat().st_mtime_ns < newest:
        report.unlink()  # `maicc report` wrote it while some stages were not finished

    def make() -> None:
        from maicc.report import write_replay, write_report

        if traces_of(out).exists():
            try:
                print(f"{write_replay(out)}: written")
            except UserError as error:  # of the family's `draw`
                print(f"no replay: {error}")
        write_report(out)
        print(f"{report}: written")

    return Stage("report", report, make)


def _same_configuration(
    config: RunConfig, family: TaskFamily, path: Path, *, collects: bool
) -> None:
    """Writes the configuration that a run follows from, or refuses one that differs from it.

    Args:
        collects: Whether options of collecting count. They do not where a dataset was given.

    Raises:
        UserError: names up to four options that differ.
    """
    if not path.exists():
        stamp = {
            "tasks": family.fingerprint,
            "states_bounds": family.return_bounds is not None,
            "version": __version__,
        }
        write_json(path, {**config.identity(), **stamp})
        return
    stored = read_json(path)
    before = {**parse_config(stored, str(path)).identity(), "tasks": stored.get("tasks")}
    now = {**config.identity(), "tasks": family.fingerprint}
    # with the dotted names of all options
    old, new = (dict(dict_to_namespace(of).items()) for of in (before, now))
    differ = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and (collects or not key.startswith("collect."))
    ]
    if differ:
        raise UserError(
            f"{path.parent} was made with another configuration ({'; '.join(differ[:4])}); "
            "choose another --out, or remove the folder"
        )
