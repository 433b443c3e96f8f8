"""Which series queries name."""

import re

_METRIC = re.compile(r"(?<![\w:])(?:loopserve_\w+|up)\b(?!:)")


def named_in(expr: str) -> set[str]:
    """The series that a PromQL expression names, Prometheus' own ``up`` included, recorded ones not."""
    return set(_METRIC.findall(expr))
