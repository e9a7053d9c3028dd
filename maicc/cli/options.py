"""Parsers of what the user types: a configuration by name or file, and variants."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_type_hints

from maicc.errors import did_you_mean
from maicc.types import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from maicc.baselines.method import Method
    from maicc.config import RunConfig

DEVICE = Literal["auto", "cpu", "cuda"]
DATA: dict[str, Any] = {
    "type": str, "default": None, "metavar": "FILE.h5",
    "help": "dataset that `maicc collect` has made, in place of collecting",
}  # fmt: skip
_KINDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false",
    "list": "a list such as [0.5, 1.0]",
}  # fmt: skip
CONFIGS = Path(__file__).parent.parent / "configs"


def make_parser(command: str, what: str) -> ArgumentParser:
    """Makes a parser whose errors are one line, which names the help.

    Args:
        command: Name of the command.
        what: Description of the command.
    """
    from jsonargparse import ArgumentParser

    return one_line(ArgumentParser)(prog=f"maicc {command}", description=what)


def one_line(parser: type) -> Any:
    """Makes a class of parsers whose errors are one line, which names the help.

    A part of an option's name is an error.
    """

    class Parser(parser):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.allow_abbrev = False

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            prog = self.prog.replace(" [options]", "")  # of a command within Lightning's
            message = _in_words(" ".join(message.split()))
            if unknown := re.match(r"unrecognized arguments: (--[^ =]*)", message):
                message += did_you_mean(unknown[1], self._option_string_actions)
            raise told(ex) or UserError(f"{message}; `{prog} --help` lists the options")

    return Parser


def _in_words(message: str) -> str:
    """Writes the types in an error of the parser in words."""
    for kind, words in _KINDS.items():
        message = message.replace(f"a <class '{kind}'>", words)
    return re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", message)


def told(error: BaseException | None) -> UserError | None:
    """Finds the error that the user can put right behind a library's; None if there is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def run_options(parser: ArgumentParser, argv: Sequence[str]) -> tuple[RunConfig, dict[str, Any]]:
    """Parses `NAME|FILE.yaml --key value ...`.

    Args:
        parser: Parser of the command's own options; the method's options are added here.

    Returns:
        The configuration, of the method's own class, and the command's own options.

    Raises:
        UserError: an option is wrong, or the method does not have it.
    """
    from maicc.baselines import method_of

    words = list(argv)
    has_name = bool(words) and not words[0].startswith("-")
    if not has_name and not any(w in ("-h", "--help") or w.startswith("--config") for w in words):
        raise UserError(f"what to run? The name comes first: {parser.usage}")
    is_file = has_name and words[0].endswith((".yaml", ".yml"))
    if is_file:
        words[0] = f"--config={_existing(words[0])}"
    method = method_of(_method_in(words) or "maicc")
    if has_name and not is_file:
        words = [*_shipped(words[0], method), *words[1:]]
    _refuse_options_of_others(argv, method)
    command_names = {action.dest for action in parser._actions} - {"config"}
    parser.add_class_arguments(method.config)
    options = parser.parse_args(words)
    options.pop("config")
    _require_sections(options, method.config)
    values = parser.instantiate(options).as_dict()
    named = (_family_of(argv[0]) or argv[0]) if has_name and not is_file else values["family"]
    if named != values["family"]:
        raise UserError(f"{argv[0]} is of family {named}: leave --family={values['family']} out")
    return (
        method.config(**{k: value for k, value in values.items() if k not in command_names}),
        {k: value for k, value in values.items() if k in command_names},
    )


def shipped_run(name: str) -> RunConfig:
    """Reads the configuration that `maicc run NAME` has.

    Raises:
        UserError: there is no such family or configuration.
    """
    parser = make_parser("run", "")
    parser.add_argument("--config", action="config")
    return run_options(parser, [name])[0]


def positional(argv: Sequence[str]) -> Iterator[str]:
    """Yields the words that are neither options nor their values."""
    before = ""
    for word in argv:
        is_value = before.startswith("-") and "=" not in before
        if not is_value and not word.startswith("-"):
            yield word
        before = word


def _require_sections(options: Any, kind: Any, path: str = "") -> None:
    """Checks that every section of a configuration class holds options.

    Raises:
        UserError: names the one that is something else.
    """
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            if not hasattr(options[name], "as_dict"):
                raise UserError(
                    f"{path}{name} is {options[name]!r}, expected a section with options"
                )
            _require_sections(options[name], hint, f"{path}{name}.")


def given_data(argv: Sequence[str], data: str | None) -> Path | None:
    """Gives the path that `--data` names; None without it.

    Raises:
        UserError: an option says how to collect, too.
    """
    collect = next((word for word in argv if word.startswith("--collect")), None)
    if data and collect:
        raise UserError(f"--data takes the place of collecting: leave {collect} out, or --data")
    return Path(data) if data else None


def _refuse_own_runs(argv: Sequence[str], command: str) -> None:
    """Raises UserError where an option says how many runs to play, which `--tasks` does."""
    from maicc.config import OWN_RUNS

    for word in argv:
        name = word.split("=")[0]
        if name.removeprefix("--") in OWN_RUNS:
            raise UserError(
                f"{name} is an option of `maicc run`; `maicc {command}` plays one run for each of "
                "its --tasks, and keeps no traces: leave it out"
            )


def folder_name(argv: Sequence[str], config: RunConfig) -> str:
    """Names the folder by NAME, by the name of FILE.yaml, or else by the family."""
    name = argv[0] if not argv[0].startswith("-") else config.family
    return name.removesuffix(".yml").removesuffix(".yaml").split("/")[-1].replace(":", ".")


def _existing(path: str) -> str:
    """Gives the path of a text file back.

    Raises:
        UserError: there is no such file, or it holds no text.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file")
    try:
        Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None
    return path


def _method_in(argv: Sequence[str]) -> str | None:
    """Finds the method that the command line names, or else the last file of options.

    Returns:
        The method's name, or None if neither names one.
    """
    import yaml

    method = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        option, _, value = word.partition("=")
        value = value or following
        if option == "--method":
            return value
        if option == "--config" and Path(value).is_file():
            try:
                options = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (UnicodeDecodeError, yaml.YAMLError):
                continue  # the parser reports it
            method = options.get("method", method) if isinstance(options, dict) else method
    return method


def _shipped(name: str, method: Method) -> list[str]:
    """Makes arguments of a shipped configuration, or of the defaults for a task family.

    Shipped configurations are MAICC's; another method takes over the options that it has too.
    """
    configuration: str | None = name
    family: list[str] = []
    if _family_of(name) is None:
        from maicc.envs import get_family

        configuration, family = get_family(name).configuration, [f"--family={name}"]
    shipped = [f"--config={CONFIGS / configuration}.yaml"] if configuration else []
    if method.name == "maicc":
        return [*shipped, *family]
    from maicc.config import MaiccRun

    parser = make_parser("run", "")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(MaiccRun)
    options = parser.parse_args([f"--family={name}", *shipped]).as_dict()
    part = _part_of(method.config, method.adopt(options))
    return [f"--config={json.dumps(part)}", *family]


def _family_of(name: str) -> str | None:
    """Tells the family of a shipped configuration; None if there is no such one."""
    import yaml

    path = CONFIGS / f"{name}.yaml"
    if not path.exists():
        return None
    family: str | None = yaml.safe_load(path.read_text(encoding="utf-8")).get("family")
    return family


def _part_of(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the options that a configuration class has."""
    hints = get_type_hints(kind)
    return {
        option.name: _part_of(hints[option.name], value)
        if is_dataclass(hints[option.name])
        else value
        for option in fields(kind)
        if option.name in options
        for value in [options[option.name]]
    }


def _refuse_options_of_others(argv: Sequence[str], method: Method) -> None:
    """Refuses an option that another method has and this one does not read.

    Raises:
        UserError: names the option and the methods that have it.
    """
    from maicc.baselines import METHODS

    for word in argv:
        path = word.removeprefix("--").partition("=")[0]
        if not word.startswith("--") or _has(method.config, path):
            continue
        others = [other.name for other in METHODS.values() if _has(other.config, path)]
        if others:
            raise UserError(
                f"{path} is no option of method {method.name}, it is one of {', '.join(others)}"
            )


def _has(kind: type, path: str) -> bool:
    """Tells whether a configuration class has an option at a dotted path."""
    for name in path.split("."):
        hint = get_type_hints(kind).get(name) if is_dataclass(kind) else None
        if hint is None:
            return False
        kind = hint
    return True


def variant_options(
    command: str, what: str, listed: str, default: str, argv: list[str]
) -> tuple[RunConfig, dict[str, Any], dict[str, Any]]:
    """Parses the command line of a benchmark.

    Args:
        command: Name of the command.
        what: Description of the command.
        listed: Option that lists the variants.
        default: Variants by default.
        argv: Words that the user typed after the command.

    Returns:
        The configuration, the options that each variant sets, and the options of the benchmark.
    """
    parser = make_parser(command, what)
    parser.usage = (
        f"maicc {command} NAME|FILE.yaml [--seeds N] [--tasks N] [--{listed} A,B] [--out DIR] "
        "[--data FILE.h5] [--section.key value ...]"
    )
    parser.add_argument("--config", action="config", help="FILE.yaml, in place of NAME")
    parser.add_argument("--out", type=str, default=None, help=f"folder; runs/{command}-NAME")
    parser.add_argument("--data", **DATA)
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
        "--variants_file", "--variants-file", type=str, default=None,
        help="YAML: variant name, then the options it sets; configs/variants.yaml by default",
    )  # fmt: skip
    if command == "benchmark":
        parser.add_argument(
            "--proof", action="store_true",
            help="add an oracle that is told the hidden part of each task, a model without memory "
            "and random actions, and write how much of the gap the variants close",
        )  # fmt: skip
    config, bench = run_options(parser, argv)
    episodes, file, names = (bench.pop(key) for key in ("episodes", "variants_file", listed))
    if episodes is not None:
        config.adapt.episodes = episodes
    for option in ("seeds", "tasks", "threads"):
        if bench[option] < 1:
            raise UserError(f"--{option}={bench[option]} must be at least 1")
    _refuse_own_runs(argv, command)
    bench["data"] = given_data(argv, bench["data"])
    bench["out"] = Path(bench["out"] or f"runs/{command}-{folder_name(argv, config)}")
    return config, _variants(Path(file or CONFIGS / "variants.yaml"), names), bench


def _variants(path: Path, names: str) -> dict[str, Any]:
    """Reads the variants of those names from a file, each with the options it sets."""
    import yaml
    from jsonargparse import get_loader

    try:  # as a run's YAML is read, to which 1e-3 is a number
        variants: Any = get_loader("yaml")(Path(_existing(str(path))).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(variants, dict) or not all(
        isinstance(options or {}, dict) for options in variants.values()
    ):
        raise UserError(f"{path}: expected names of variants, each with the options it sets")
    for name in variants:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
            raise UserError(
                f"{path}: {name!r} is no name of a variant, which letters, digits and _ . + - make"
            )
    chosen = list(variants) if names == "every" else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in variants:
            near = did_you_mean(name, variants)
            raise UserError(f"no variant {name!r}{near}; {path.name} has: {', '.join(variants)}")
    return {name: variants[name] or {} for name in chosen}
