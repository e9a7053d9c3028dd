"""The command `maicc`: its parts, and how errors and interruptions are told.

Each part imports its modules only when it is called, so that help comes at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from maicc.cli import looking, making
from maicc.errors import did_you_mean
from maicc.types import UserError

USAGE = """\
maicc: teams of agents that adapt to unseen tasks by a record of what they have lived through.

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
            near = did_you_mean(argv[0], COMMANDS)
            raise UserError(f"no command {argv[0]!r}{near}; there are: {', '.join(COMMANDS)}")
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


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": making.run_command,
    "collect": making.collect_command,
    "fit": making.fit_command,
    "adapt": making.adapt_command,
    "bundle": making.bundle_command,
    "benchmark": making.benchmark_command,
    "compare": making.compare_command,
    "bench": looking.bench_command,
    "credit": looking.credit_command,
    "context": looking.context_command,
    "report": looking.report_command,
    "replay": looking.replay_command,
    "tasks": looking.tasks_command,
    "check": looking.check_command,
    "doctor": looking.doctor_command,
}
