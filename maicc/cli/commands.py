"""The commands. Each imports its modules only when it is called, so that help comes at once."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from maicc.cli.options import (
    DATA,
    DEVICE,
    folder_name,
    given_data,
    make_parser,
    run_options,
    variant_options,
)
from maicc.types import UserError

USAGE = """\
maicc: teams of agents that adapt to tasks they have never seen, by looking up what they remember.

usage: maicc COMMAND [options]        maicc COMMAND --help tells more

  run        everything, in one folder: collect, train, adapt, report; goes on where it stopped
  collect    make the dataset of a task family, or read one in the authors' layout
  fit        train one model with the Lightning CLI (--config, --trainer.*, --model.*, --data.*)
  adapt      let teams of trained models adapt to unseen tasks
  bundle     make one file of a run's team, to give away
  benchmark  variants and seeds on the same frozen tasks, in one table
  compare    MAICC and its rivals on the same frozen tasks, in one table and one figure
  bench      time every part, beside the machine's own peak
  credit     predicted against true individual rewards, where the environment knows them
  context    is a retrieved context worth anything to the decision model?
  report     write the report of a run's folder
  replay     watch traced episodes: what agents saw, did and remembered
  tasks      list the task families, or the tasks of one
  check      does a task family keep its contract? every item with the fix
  doctor     what is installed, what is missing, and the command that puts it right

First steps:  maicc tasks
              maicc run lbf_7x7 --out runs/demo
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the user typed.

    The exit code is 2 after an error that the user can put right, and 130 after Ctrl-C or SIGTERM,
    which keep the same. The process belongs to the command: matplotlib draws without a display, and
    what a terminal can't show is replaced.
    """
    os.environ["MPLBACKEND"] = "Agg"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main else None
    try:
        _main(arguments)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _main(arguments: Sequence[str] | None) -> None:
    """Runs the command, and tells its errors in a line."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    if argv[0] == "--version":
        from maicc import __version__

        print(__version__)
        return
    command = COMMANDS.get(argv[0])
    try:
        if command is None:
            raise UserError(f"no command {argv[0]!r}; there are: {', '.join(COMMANDS)}")
        command(argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"maicc: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `maicc tasks | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"maicc: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        goes_on = argv[0] in ("run", "collect", "adapt", "benchmark", "compare")
        hint = "; the same command goes on where it stopped" if goes_on else ""
        print(f"\nmaicc: interrupted{hint}", file=sys.stderr)
        sys.exit(130)


def _run(argv: list[str]) -> None:
    what = (
        "Collect, train, adapt and report, in one folder. NAME is a configuration that comes with "
        "maicc, a task family, or MODULE:ATTRIBUTE; FILE.yaml is a configuration of your own. "
        "Finished stages are skipped, an interrupted one goes on where it stopped."
    )
    parser = make_parser("run", what)
    argv = [part for word in argv for part in _split(word)]
    if "--tasks" in argv[:-1]:  # another way to give NAME
        i = argv.index("--tasks")
        argv = [argv[i + 1], *argv[:i], *argv[i + 2 :]]
    parser.usage = (
        "maicc run NAME|FILE.yaml|--tasks MODULE:ATTRIBUTE [--out DIR] [--seed N] "
        "[--data FILE.h5] [--section.key value ...]"
    )
    parser.add_argument("--config", action="config", help="FILE.yaml, in place of NAME")
    parser.add_argument("--out", type=str, default=None, help="folder; runs/NAME by default")
    parser.add_argument("--data", **DATA)
    config, command_options = run_options(parser, argv)
    method = "" if config.method == "maicc" else f"-{config.method}"
    out = Path(command_options["out"] or f"runs/{folder_name(argv, config)}{method}")
    data = given_data(argv, command_options["data"])

    from maicc.experiments.run import run

    run(config, out, data)


def _split(word: str) -> list[str]:
    """Splits `--tasks=NAME` into two words, and no other word."""
    return ["--tasks", word.removeprefix("--tasks=")] if word.startswith("--tasks=") else [word]


def _collect(argv: list[str]) -> None:
    from maicc.config import CollectConfig

    parser = make_parser("collect", "Make the dataset of a task family.")
    parser.add_argument("family", type=str, help="task family; `maicc tasks` lists them")
    parser.add_argument("--out", type=str, default=None, help="file; runs/FAMILY.h5 by default")
    parser.add_argument("--seed", type=int, default=0, help="every random choice follows from it")
    parser.add_argument(
        "--from_reference", "--from-reference", type=str, default=None, metavar="FILE.h5",
        help="read a dataset in the layout of the authors' code instead of playing",
    )  # fmt: skip
    parser.add_argument(
        "--from_arrays", "--from-arrays", type=str, default=None, metavar="FILE.npz|FILE.h5",
        help="read episodes of your own; docs/tutorial.md, section 5, lists the fields",
    )  # fmt: skip
    parser.add_argument(
        "--from_minari", "--from-minari", type=str, default=None, metavar="NAME",
        help="read a Minari dataset that --to-minari has made",
    )  # fmt: skip
    parser.add_argument(
        "--to_minari", "--to-minari", type=str, default=None, metavar="NAME",
        help="write the dataset --data as a Minari dataset, and nothing else",
    )  # fmt: skip
    parser.add_argument("--data", type=str, default=None, help="dataset for --to-minari")
    parser.add_class_arguments(CollectConfig)
    options = parser.parse_args(argv)

    from maicc.data.arrays import convert_arrays
    from maicc.data.collect import check_settings, collect, plan_of
    from maicc.data.contract import check_family
    from maicc.data.dataset import EpisodeFile
    from maicc.data.minari import export_minari, import_minari
    from maicc.data.reference import convert_reference
    from maicc.envs import get_family
    from maicc.files import locked

    family = get_family(options.family)
    _check_seed(options.seed)
    others = [f"--{name}" for name in ("from-reference", "from-arrays", "from-minari", "to-minari")]
    given = [name for name in others if options[name[2:].replace("-", "_")]]
    if len(given) > 1:
        raise UserError(f"give one of {', '.join(given)}, not both")
    if bool(options.to_minari) != bool(options.data):
        raise UserError("--to-minari NAME and --data FILE.h5 go together")
    if options.to_minari:
        export_minari(Path(options.data), family, options.to_minari)
        return
    out = Path(options.out or f"runs/{family.name.replace(':', '.')}.h5")
    if out.exists():
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    if options.from_reference:
        convert_reference(Path(options.from_reference), family, out)
        return
    if options.from_arrays:
        convert_arrays(Path(options.from_arrays), family, out)
        return
    if options.from_minari:
        import_minari(options.from_minari, family, out)
        return
    config = CollectConfig(**{f.name: getattr(options, f.name) for f in fields(CollectConfig)})
    check_settings(family, config)
    check_family(family)
    with locked(out):
        if not out.exists():
            collect(family, out, config, options.seed)
        elif EpisodeFile(out).plan == plan_of(family, config, options.seed):
            print(f"{out} is there")
        else:
            raise UserError(f"{out}: another process has made it, with other options; remove it")


def _check_seed(seed: int) -> None:
    """Raises UserError unless a seed is in its limits."""
    from maicc.config import MOST_SEED

    if not 0 <= seed <= MOST_SEED:
        raise UserError(f"--seed={seed} must be at least 0 and at most {MOST_SEED}")


def _fit(argv: list[str]) -> None:
    import warnings

    import lightning as L
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from maicc.cli.options import one_line, told

    class CLI(LightningCLI):
        """Lightning's command line; the model takes its spec from the data module."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    warnings.simplefilter("ignore", DeprecationWarning)  # Lightning's calls of jsonargparse
    # args is given on purpose
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    # where nothing is held back
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    try:
        CLI(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            args=["fit", *argv],
            parser_class=one_line(LightningArgumentParser),
            parser_kwargs={"prog": "maicc"},
        )
    except Exception as error:
        if (mended := told(error)) is None:
            raise
        raise mended from None


def _adapt(argv: list[str]) -> None:
    from maicc.config import MaiccAdapt
    from maicc.evaluation.run_folder import BUNDLE, read_config
    from maicc.schema import check_options

    parser = make_parser(
        "adapt",
        "Let teams of a run's models adapt to tasks, and write the result. Episodes and memory are "
        "the run's own where they are not given.",
    )
    parser.add_argument("run", type=str, help="folder of a finished `maicc run`, or its bundle")
    parser.add_argument("--out", type=str, required=True, help="result file, .json")
    parser.add_argument("--seed", type=int, default=0, help="every random choice follows from it")
    parser.add_argument("--device", type=DEVICE, default="auto", help="where")
    parser.add_argument(
        "--tasks", type=Literal["held_out", "training"], default="held_out", help="which"
    )
    named = (a for a in argv if not a.startswith("-") and (Path(a).is_dir() or a.endswith(BUNDLE)))
    run = next(named, None)
    settings: Any = read_config(run).adapt if run else MaiccAdapt()
    # --runs is the number of runs on held-out tasks and on training tasks alike
    parser.add_class_arguments(type(settings), skip={"training_runs"})
    parser.set_defaults(_settings(settings))
    options = parser.instantiate(parser.parse_args(argv))
    out = Path(options.out)
    if out.exists():
        raise UserError(f"{out} is there already; choose another --out, or remove it")
    _check_seed(options.seed)
    names = [f.name for f in fields(settings) if f.name != "training_runs"]
    config = type(settings)(
        training_runs=options.runs, **{name: getattr(options, name) for name in names}
    )
    check_options(config, "adapt")

    from maicc.evaluation.adapt import adapt_folder

    held_out = options.tasks == "held_out"
    adapt_folder(Path(options.run), config, options.seed, out, options.device, held_out=held_out)


def _settings(settings: Any) -> dict[str, Any]:
    """Lists a run's options of adaptation by dotted path, without its numbers of runs."""
    values = asdict(settings)
    memory = {f"memory.{name}": value for name, value in values.pop("memory", {}).items()}
    return {k: v for k, v in values.items() if k not in ("runs", "training_runs")} | memory


def _bundle(argv: list[str]) -> None:
    from maicc.evaluation.run_folder import BUNDLE

    parser = make_parser(
        "bundle",
        "Make one file of a run's team: weights, options, sizes, what the team looks up, and a "
        "card with its figures. `maicc adapt FILE` and `maicc.load_team(FILE)` take it.",
    )
    parser.add_argument("run", type=str, help="folder of a finished `maicc run`")
    parser.add_argument("out", type=str, help=f"file to make, named NAME{BUNDLE}")
    options = parser.parse_args(argv)
    out = Path(options.out)
    if out.suffix != BUNDLE:
        raise UserError(f"{out}: the name of a bundle ends with {BUNDLE}")
    if out.exists():
        raise UserError(f"{out} is there already; choose another name, or remove it")

    from maicc.evaluation.bundle import bundle

    bundle(Path(options.run), out)


def _benchmark(argv: list[str]) -> None:
    config, variants, options = variant_options(
        "benchmark",
        "Train one model per seed, adapt each on the same frozen tasks in every variant, and write "
        "the table. Finished units are never repeated. NAME or FILE.yaml as in `maicc run`.",
        "variants", "default", argv,
    )  # fmt: skip

    from maicc.experiments import benchmark, proof
    from maicc.report import table

    if options.pop("proof"):
        print(proof.markdown(proof.prove(config, variants, **options)))
    else:
        print(table.markdown(benchmark.benchmark(config, variants, **options)))
    print(options["out"] / "report.html")


def _compare(argv: list[str]) -> None:
    config, methods, options = variant_options(
        "compare",
        "Train and adapt methods on the same frozen tasks, seeds and steps, and write one table "
        "and one figure. Finished units are never repeated. NAME or FILE.yaml as in `maicc run`.",
        "methods",
        "maicc,retrieval,maicc_s,radt,at,madt,ad,dpt,dpt_until_solved,hissd,random_context,"
        "no_context,beta_0,beta_1",
        argv,
    )  # fmt: skip

    from maicc.experiments.compare import compare, comparison_markdown

    print(comparison_markdown(compare(config, methods, **options)))
    print(options["out"] / "report.html")


def _bench(argv: list[str]) -> None:
    parser = make_parser(
        "bench", "Time training, keys, adaptation and retrieval; takes some minutes."
    )
    parser.add_argument("family", type=str, nargs="?", default="lbf_7x7", help="task family")
    parser.add_argument("--out", type=str, default="runs/bench", help="folder of the result")
    parser.add_argument("--device", type=DEVICE, default="auto", help="where")
    parser.add_argument(
        "--largest", type=int, default=2_700_000, help="keys in the largest index, of part models"
    )
    parser.add_argument(
        "--part", type=Literal["models", "environments", "teachers"], default="models",
        help="time the models; the environments of families, A,B; or a step of embedding training "
        "in each of its forms",
    )  # fmt: skip
    options = parser.parse_args(argv)

    from maicc.evaluation import speed, speed_parts
    from maicc.files import write_json, write_text

    result: Any
    if options.part == "models":
        result = speed.bench(options.family, options.device, options.largest)
        text = speed.markdown(result)
    else:
        if options.part == "environments":
            result = speed_parts.bench_environments(options.family.split(","))
        else:
            result = speed_parts.bench_teachers(options.family)
        text = speed_parts.markdown(result)
    name = "bench" if options.part == "models" else options.part
    out = Path(options.out)
    write_json(out / f"{name}.json", result)
    write_text(out / f"{name}.md", text)
    print(text)


def _credit(argv: list[str]) -> None:
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


def _context(argv: list[str]) -> None:
    parser = make_parser(
        "context", "Compare the decision model's error with its contexts and with other queries'."
    )
    parser.add_argument("folder", type=str, help="folder of a `maicc run`")
    options = parser.parse_args(argv)

    import json

    from maicc.config import MaiccRun
    from maicc.evaluation.context_value import context_value
    from maicc.evaluation.run_folder import read_config
    from maicc.files import ModelFiles

    folder = options.folder
    config = read_config(folder)
    if not isinstance(config, MaiccRun):
        raise UserError(f"{folder}: method {config.method} looks up no contexts, only maicc does")
    with redirect_stdout(sys.stderr):
        value = context_value(ModelFiles.in_folder(folder), config.decision.retrieval)
    print(json.dumps(value, indent=1))


def _report(argv: list[str]) -> None:
    parser = make_parser("report", "Write report.html from what a run left in its folder.")
    parser.add_argument("folder", type=str, help="folder of a `maicc run`")
    options = parser.parse_args(argv)

    from maicc.report import write_report

    print(write_report(Path(options.folder)))


def _replay(argv: list[str]) -> None:
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

    source = Path(options.source)
    if options.gif:
        print(pictures.write_gif(source, Path(options.gif), options.run, options.episode))
    else:
        out = Path(options.out) if options.out else None
        print(replay.write_replay(source, out, options.episodes))


def _tasks(argv: list[str]) -> None:
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


def _check(argv: list[str]) -> None:
    parser = make_parser(
        "check", "Check that a task family keeps its contract. Exit code 1 if it does not."
    )
    parser.add_argument("family", type=str, help="task family, or MODULE:ATTRIBUTE")
    options = parser.parse_args(argv)

    from maicc.data.contract import check_contract, report
    from maicc.envs import get_family

    if not report(check_contract(get_family(options.family))):
        sys.exit(1)


def _doctor(argv: list[str]) -> None:
    make_parser("doctor", "Say what is installed and what is missing.").parse_args(argv)

    from maicc.cli.doctor import doctor, report

    if not report(doctor()):
        raise UserError("something that every run needs is missing; see above")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "collect": _collect,
    "fit": _fit,
    "adapt": _adapt,
    "bundle": _bundle,
    "benchmark": _benchmark,
    "compare": _compare,
    "bench": _bench,
    "credit": _credit,
    "context": _context,
    "report": _report,
    "replay": _replay,
    "tasks": _tasks,
    "check": _check,
    "doctor": _doctor,
}
