"""How the commands read what the user types: a configuration by name or file, and variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maicc.types import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from maicc.config import RunConfig

DEVICE = Literal["auto", "cpu", "cuda"]
CONFIGS = Path(__file__).parent.parent / "configs"


def make_parser(command: str, what: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"maicc {command}", description=what)


def run_options(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parses `NAME|FILE.yaml --key value ...`."""
    if argv and not argv[0].startswith("-"):
        argv = [*_configuration(argv[0]), *argv[1:]]
    elif not any(a in ("-h", "--help") or a.startswith("--config") for a in argv):
        raise UserError(f"what to run? {parser.usage}")
    options = parser.parse_args(argv)
    options.pop("config")
    return options


def folder_name(argv: list[str], options: Namespace) -> str:
    """What to call the folder: NAME, the name of FILE.yaml, or else the family."""
    named = argv[0] if not argv[0].startswith("-") else options.family
    return named.removesuffix(".yml").removesuffix(".yaml").split("/")[-1].replace(":", ".")


def _configuration(name: str) -> list[str]:
    """A file, a configuration shipped with the package, or the defaults for a task family."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).exists():
            raise UserError(f"{name}: no such file")
        return [f"--config={name}"]
    if (CONFIGS / f"{name}.yaml").exists():
        return [f"--config={CONFIGS / name}.yaml"]
    from maicc.envs import get_family

    shared = get_family(name).configuration
    return [*([f"--config={CONFIGS / shared}.yaml"] if shared else []), f"--family={name}"]


def variant_options(
    command: str, what: str, listed: str, default: str, argv: list[str]
) -> tuple[RunConfig, dict[str, Any], dict[str, Any]]:
    """The configuration, variants by name, and options of a benchmark."""
    import yaml

    from maicc.config import RunConfig

    parser = make_parser(command, what)
    parser.usage = (
        f"maicc {command} NAME|FILE.yaml [--seeds N] [--tasks N] [--{listed} A,B] [--out DIR] "
        "[--section.key value ...]"
    )
    parser.add_argument("--config", action="config", help="FILE.yaml, in place of NAME")
    parser.add_argument("--out", type=str, default=None, help=f"folder; runs/{command}-NAME")
    parser.add_argument("--seeds", type=int, default=5, help="models, from --seed on")
    parser.add_argument("--tasks", type=int, default=10, help="frozen tasks, shared by all units")
    parser.add_argument(
        "--draw", type=Literal["held_out", "all"], default="held_out",
        help="draw held-out tasks, or among all tasks, training ones too, as the paper does",
    )  # fmt: skip
    parser.add_argument("--episodes", type=int, default=None, help="of variants that set none")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="cores of a unit; tables are equal to the last digit for equal numbers of threads",
    )
    parser.add_argument(
        "--cluster", type=str, default=None, metavar="local|ADDRESS",
        help="run units side by side with Ray, on this machine's cores or on a cluster whose "
        "machines share the folder; default: one after another in this process",
    )  # fmt: skip
    parser.add_argument(
        "--behaviours", type=bool, default=command == "compare",
        help="play the dataset's behaviour policies on the tasks as well",
    )  # fmt: skip
    parser.add_argument(f"--{listed}", type=str, default=default, help="names, or `every`")
    parser.add_argument(
        "--variants_file", type=str, default=None,
        help="YAML: variant name, then the options it sets; configs/variants.yaml by default",
    )  # fmt: skip
    parser.add_class_arguments(RunConfig)
    options = run_options(parser, argv)
    own = {
        key: options.pop(key)
        for key in (
            "out", "seeds", "tasks", "draw", "episodes", "threads", "cluster", "behaviours",
            listed, "variants_file",
        )
    }  # fmt: skip
    name = folder_name(argv, options)
    config: RunConfig = RunConfig(**parser.instantiate_classes(options).as_dict())
    if own["episodes"] is not None:
        config.adapt.episodes = own["episodes"]
    for option in ("seeds", "tasks", "threads"):
        if own[option] < 1:
            raise UserError(f"--{option}={own[option]} must be at least 1")
    path = Path(own["variants_file"] or CONFIGS / "variants.yaml")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(known, dict) or not all(isinstance(v or {}, dict) for v in known.values()):
        raise UserError(f"{path}: expected names of variants, each with the options it sets")
    wanted = list(known) if own[listed] == "every" else own[listed].split(",")
    for variant in wanted:
        if variant not in known:
            raise UserError(f"no variant {variant!r}; {path.name} has: {', '.join(known)}")
    own["out"] = Path(own["out"] or f"runs/{command}-{name}")
    for option in ("episodes", "variants_file", listed):
        del own[option]
    return config, {variant: known[variant] or {} for variant in wanted}, own
