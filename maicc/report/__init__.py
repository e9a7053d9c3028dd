"""Tables, figures, and a run's two pages: its report and the replay of its traces."""

from maicc.report.replay import write_replay
from maicc.report.write import write_benchmark, write_report

__all__ = ["write_benchmark", "write_replay", "write_report"]
