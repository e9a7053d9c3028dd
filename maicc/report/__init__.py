"""Tables, figures and the HTML report of a run's folder, which is one self-contained file."""

from maicc.report.write import write_benchmark, write_report

__all__ = ["write_benchmark", "write_report"]
