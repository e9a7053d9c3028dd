"""Commands that make something: a run, a dataset, a fit, an adaptation, a table, a bundle."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maicc.cli.options import (
    DATA,
    DEVICE,
    folder_name,
    given_data,
    make_parser,
    positional,
    run_options,
    shipped_run,
    variant_options,
)
from maicc.types import UserError

if TYPE_CHECKING:
    from maicc.config import CollectConfig
    from maicc.envs import TaskFamily


def run_command(argv: list[str]) -> None:
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


def collect_command(argv: list[str]) -> None:
    from maicc.config import CollectConfig

    parser = make_parser(
        "collect",
        "Make the dataset of a task family. Settings that are not given are those of `maicc run`.",
    )
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
    if (name := next(positional(argv), None)) is not None:
        parser.set_defaults(asdict(shipped_run(name).collect))
    options = parser.parse_args(argv)

    from maicc.envs import get_family

    family = get_family(options.family)
    _check_seed(options.seed)
    _refuse_mixed(options, argv)
    out = Path(options.out or f"runs/{family.name.replace(':', '.')}.h5")
    if options.to_minari or options.from_reference or options.from_arrays or options.from_minari:
        _convert(options, family, out)
    else:
        values = {f.name: getattr(options, f.name) for f in fields(CollectConfig)}
        _play(family, CollectConfig(**values), options.seed, out)


def _refuse_mixed(options: Any, argv: list[str]) -> None:
    """Refuses options of `maicc collect` that do not go together.

    Raises:
        UserError: names them.
    """
    others = [f"--{name}" for name in ("from-reference", "from-arrays", "from-minari", "to-minari")]
    given = [name for name in others if options[name[2:].replace("-", "_")]]
    if len(given) > 1:
        raise UserError(f"give one of {', '.join(given)}, not both")
    if bool(options.to_minari) != bool(options.data):
        raise UserError("--to-minari NAME and --data FILE.h5 go together")
    if given:
        needed = {given[0], "--data" if options.to_minari else "--out"}
        words = {w.partition("=")[0].replace("_", "-") for w in argv if w.startswith("--")}
        if words - needed:
            raise UserError(f"{min(words - needed)} does not go with {given[0]}; leave it out")


def _convert(options: Any, family: TaskFamily, out: Path) -> None:
    """Reads a dataset of another layout, or writes one."""
    from maicc.data.arrays import convert_arrays
    from maicc.data.minari import export_minari, import_minari
    from maicc.data.reference import convert_reference
    from maicc.files import require_new

    if options.to_minari:
        export_minari(Path(options.data), family, options.to_minari)
        return
    require_new(out)
    if options.from_reference:
        convert_reference(Path(options.from_reference), family, out)
    elif options.from_arrays:
        convert_arrays(Path(options.from_arrays), family, out)
    else:
        import_minari(options.from_minari, family, out)


def _play(family: TaskFamily, config: CollectConfig, seed: int, out: Path) -> None:
    """Plays the episodes of a dataset."""
    from maicc.data.collect import check_settings, collect, plan_of
    from maicc.data.contract import check_family
    from maicc.data.dataset import EpisodeFile
    from maicc.files import locked, require_new

    require_new(out)
    check_settings(family, config)
    check_family(family)
    with locked(out):
        if not out.exists():
            collect(family, out, config, seed)
        elif EpisodeFile(out).plan == plan_of(family, config, seed):
            print(f"{out} is there")
        else:
            raise UserError(f"{out}: another process has made it, with other options; remove it")


def _check_seed(seed: int) -> None:
    """Raises UserError unless a seed is in its limits."""
    from maicc.config import MOST_SEED

    if not 0 <= seed <= MOST_SEED:
        raise UserError(f"--seed={seed} must be at least 0 and at most {MOST_SEED}")


def fit_command(argv: list[str]) -> None:
    if not argv:
        raise UserError(
            "what to fit? Give --config FILE.yaml, such as configs/decision.yaml, or --model and "
            "--data; `maicc fit --help` lists the options"
        )
    import warnings

    import lightning as L
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from maicc.cli.options import one_line, told
    from maicc.training.fit import Interruptible, handlers_restored

    class CLI(LightningCLI):
        """Lightning's command line; the model takes its spec from the data module."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    warnings.simplefilter("ignore", DeprecationWarning)  # Lightning's calls of jsonargparse
    # args is given on purpose
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    # where nothing is held back
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
    stop = Interruptible()
    try:
        with handlers_restored():
            cli = CLI(
                L.LightningModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_kwargs={"overwrite": True},
                trainer_defaults={"callbacks": [stop]},
                args=["fit", *argv],
                parser_class=one_line(LightningArgumentParser),
                parser_kwargs={"prog": "maicc"},
            )
    except Exception as error:
        if (mended := told(error)) is None:
            raise
        raise mended from None
    if stop.interrupted:
        kept = getattr(cli.trainer.checkpoint_callback, "best_model_path", "")
        if kept:
            print(f"the same command with --ckpt_path={kept} goes on")
        raise KeyboardInterrupt


def adapt_command(argv: list[str]) -> None:
    from maicc.config import MaiccAdapt
    from maicc.evaluation.run_folder import BUNDLE, read_config
    from maicc.files import require_new
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
    named = (word for word in positional(argv) if Path(word).is_dir() or word.endswith(BUNDLE))
    run = next(named, None)
    settings: Any = read_config(run).adapt if run else MaiccAdapt()
    # --runs is the number of runs on held-out tasks and on training tasks alike
    parser.add_class_arguments(type(settings), skip={"training_runs"})
    parser.set_defaults(_settings(settings))
    options = parser.instantiate(parser.parse_args(argv))
    out = Path(options.out)
    if out.suffix != ".json":
        raise UserError(f"--out={out}: the name of a result ends with .json")
    require_new(out)
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


def bundle_command(argv: list[str]) -> None:
    from maicc.evaluation.run_folder import BUNDLE
    from maicc.files import require_new

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
    require_new(out, "another name")

    from maicc.evaluation.bundle import bundle

    bundle(Path(options.run), out)


def benchmark_command(argv: list[str]) -> None:
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


def compare_command(argv: list[str]) -> None:
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
