"""Commands that look at something: a run, its memory, families, the machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

from maicc.cli.options import DEVICE, make_parser, shipped_run
from maicc.config import MaiccRun
from maicc.types import UserError


def bench_command(argv: list[str]) -> None:
    parser = make_parser(
        "bench", "Time training, keys, adaptation or look-ups; takes some minutes."
    )
    parser.add_argument("family", type=str, nargs="?", default="lbf_7x7", help="task family")
    parser.add_argument("--out", type=str, default="runs/bench", help="folder of the result")
    parser.add_argument("--device", type=DEVICE, default="auto", help="where")
    parser.add_argument(
        "--largest", type=int, default=2_700_000, help="keys in the largest index, of part search"
    )
    parser.add_argument(
        "--part",
        type=Literal["models", "shipped", "search", "environments", "teachers"], default="models",
        help="what is timed. models: training and adaptation in three sizes; shipped: those of "
        "`maicc run FAMILY`, or of FILE.yaml in its place; search: look-ups among ever more keys; "
        "environments: those of families A,B; teachers: a step of embedding training in each form",
    )  # fmt: skip
    options = parser.parse_args(argv)

    if options.part in ("environments", "teachers") and options.device != "auto":
        raise UserError(f"--part {options.part} is timed on the processor: leave --device out")

    from maicc.evaluation import speed, speed_parts, speed_search
    from maicc.files import require_writable, write_json, write_text

    name = "bench" if options.part == "models" else options.part
    out = Path(options.out)
    require_writable(out / f"{name}.json")
    result: Any
    if options.part in ("models", "shipped"):
        shipped = _maiccs(options.family) if options.part == "shipped" else None
        family = shipped.family if shipped else options.family
        result = speed.bench(family, options.device, shipped)
        text = speed.markdown(result)
    elif options.part == "search":
        result = speed_search.bench_search(options.family, options.device, options.largest)
        text = speed_search.markdown(result)
    else:
        if options.part == "environments":
            result = speed_parts.bench_environments(options.family.split(","))
        else:
            result = speed_parts.bench_teachers(options.family)
        text = speed_parts.markdown(result)
    write_json(out / f"{name}.json", result)
    write_text(out / f"{name}.md", text)
    print(text)


def _maiccs(name: str) -> MaiccRun:
    """Reads the configuration that `maicc run NAME` has.

    Raises:
        UserError: it is that of another method.
    """
    run = shipped_run(name)
    if not isinstance(run, MaiccRun):
        raise UserError(f"{name} has method={run.method}, and MAICC's models are timed")
    return run


def credit_command(argv: list[str]) -> None:
    parser = make_parser(
        "credit", "Compare predicted with true individual rewards on held-out tasks."
    )
    parser.add_argument("folder", type=str, help="folder of a `maicc run`")
    options = parser.parse_args(argv)

    import json

    from maicc.evaluation.credit import credit
    from maicc.files import ModelFiles

    with redirect_stdout(sys.stderr):  # an environment may print
        value = credit(ModelFiles.in_folder(options.folder))
    print(json.dumps(value, indent=1))


def context_command(argv: list[str]) -> None:
    parser = make_parser(
        "context", "Compare the decision model's error with its contexts and with other queries'."
    )
    parser.add_argument("folder", type=str, help="folder of a `maicc run`")
    options = parser.parse_args(argv)

    import json

    from maicc.baselines import method_of
    from maicc.config import MaiccRun
    from maicc.evaluation.context_value import context_value
    from maicc.evaluation.run_folder import read_config
    from maicc.files import ModelFiles

    folder = options.folder
    config = read_config(folder)
    if not isinstance(config, MaiccRun):
        raise UserError(f"{folder}: method {config.method} looks up no contexts, only maicc does")
    acting = method_of(config.method).fits_of(config)[-1]
    files = ModelFiles.in_folder(folder, ("embedding", acting))
    with redirect_stdout(sys.stderr):
        value = context_value(files, config.decision, acting=acting)
    print(json.dumps(value, indent=1))


def report_command(argv: list[str]) -> None:
    parser = make_parser("report", "Write report.html from what a run left in its folder.")
    parser.add_argument("folder", type=str, help="folder of a `maicc run`")
    options = parser.parse_args(argv)

    from maicc.report import write_report

    print(write_report(Path(options.folder)))


def replay_command(argv: list[str]) -> None:
    parser = make_parser(
        "replay",
        "Write a page that replays traced episodes of a run: what agents saw, did and remembered. "
        "With --gif write one episode as an animated picture instead.",
    )
    parser.add_argument("source", type=str, help="folder of a `maicc run`, or a trace")
    parser.add_argument("--out", type=str, default=None, help="the page")
    parser.add_argument("--episodes", type=int, default=20, help="most episodes on the page")
    parser.add_argument("--gif", type=str, default=None, metavar="FILE.gif", help="the picture")
    parser.add_argument("--run", type=int, default=0, help="of the picture: which traced run")
    parser.add_argument("--episode", type=int, default=-1, help="its episode, from 0; -1 the last")
    options = parser.parse_args(argv)

    from maicc.report import pictures, replay

    if options.gif and options.out:
        raise UserError("--gif writes a picture in place of the page: leave out --out")
    if not options.gif and (options.run, options.episode) != (0, -1):
        raise UserError("--run and --episode choose what the picture shows: give --gif FILE.gif")
    source = Path(options.source)
    if options.gif:
        print(pictures.write_gif(source, Path(options.gif), options.run, options.episode))
    else:
        out = Path(options.out) if options.out else None
        print(replay.write_replay(source, out, options.episodes))


def tasks_command(argv: list[str]) -> None:
    parser = make_parser("tasks", "List the task families, or the tasks of one.")
    parser.add_argument("family", type=str, nargs="?", help="a family, to list its tasks")
    options = parser.parse_args(argv)

    from maicc.envs import families, get_family

    if options.family:
        family = get_family(options.family)
        for kind, tasks in (
            ("training", family.training_tasks),
            ("held out", family.held_out_tasks),
        ):
            for task in tasks:
                print(f"{kind:9} {task.name:16} {dict(task.parameters)}")
        return
    head = ("family", "agents", "obs", "actions", "steps", "returns", "training", "held out", "")
    rows: list[Sequence[Any]] = [head]
    for name in families():
        try:
            family = get_family(name)
            spec, bounds = family.spec, family.return_bounds
        except Exception as error:  # of an installed family, which must not hide the others
            rows.append((name, *[""] * (len(head) - 2), f"{type(error).__name__}: {error}"))
            continue
        rows.append(
            (name, spec.n_agents, spec.observation_size, spec.n_actions, spec.max_steps,
             f"{bounds[0]:g} to {bounds[1]:g}" if bounds else "from the data",
             len(family.training), len(family.held_out),
             family.description)
        )  # fmt: skip
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def check_command(argv: list[str]) -> None:
    parser = make_parser(
        "check", "Check that a task family keeps its contract. Exit code 1 if it does not."
    )
    parser.add_argument("family", type=str, help="task family, or MODULE:ATTRIBUTE")
    options = parser.parse_args(argv)

    from maicc.data.contract import check_contract, report
    from maicc.envs import get_family

    if not report(check_contract(get_family(options.family))):
        sys.exit(1)


def doctor_command(argv: list[str]) -> None:
    make_parser("doctor", "Say what is installed and what is missing.").parse_args(argv)

    from maicc.cli.doctor import doctor, report

    if not report(doctor()):
        raise UserError("something that every run needs is missing; see above")
