"""MAICC: multi-agent in-context reinforcement learning by decentralised memory.

The way of the data through the package is the order of its folders; each imports only from those
before it, and from the files beside this one, which all share:

    envs, memory -> data -> models -> training, teams -> baselines -> evaluation -> report
        -> experiments -> cli

`maicc/envs`, `maicc/memory` and `maicc/configs` are links to the folders at the top of the
repository: import them as `maicc.envs`, `maicc.memory` and `maicc.configs`.
"""

import os
import time


def others_run(path="/proc/loadavg"):
    """Tells whether another program is at work all the time, on Linux; elsewhere it says no."""
    for _ in range(8):
        try:
            with open(path) as file:
                running = int(file.read().split()[3].split("/")[0])
        except (OSError, ValueError, IndexError):
            return False
        if running == 1:  # this one
            return False
        time.sleep(0.003)
    return True


# OpenMP's threads spin while they wait. Beside another job that takes its core from it, and on a
# machine without one it is quicker. torch reads the variable when it is loaded, later than this.
if others_run():
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"


def load_team(*args, **kwargs):
    """Loads a trained team, ready to act: see `maicc.evaluation.trained.load_team`."""
    from maicc.evaluation.trained import load_team

    return load_team(*args, **kwargs)


def load_traces(path):
    """Loads the traces of an adaptation: see `maicc.evaluation.traces.load_traces`."""
    from maicc.evaluation.traces import load_traces

    return load_traces(path)
