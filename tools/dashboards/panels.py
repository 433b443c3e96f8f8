"""What a dashboard shows, without a word of Grafana's JSON: sections of panels with queries."""

from dataclasses import dataclass

COLUMNS = 24  # of Grafana's grid


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, with Grafana's variables.
        legend: what its series are called; ``{{label}}`` is the label's value.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """What all kinds of panels have.

    Attributes:
        about: for the reader who asks what this is and what to do about it.
        unit: one of Grafana's unit ids, or ``suffix: ...``.
        width: of `COLUMNS`.
        maximum: upper end of the axis; by default the data's.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    maximum: float | None = None


@dataclass(frozen=True)
class Lines(Panel):
    """Values over time; stacked, their heights add up."""

    stacked: bool = False


@dataclass(frozen=True)
class HeatMap(Panel):
    """How a histogram's observations spread over its buckets, over time; its one query gives series by `le`."""


@dataclass(frozen=True)
class Stat(Panel):
    """One value, now, over a faint line of its past.

    Attributes:
        steps: colours from a value upwards, lowest value first, e.g. ``((0, "green"), (1, "red"))``.
    """

    width: int = 4
    height: int = 4
    steps: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """Panels under a title, laid out from left to right and then downwards."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard; `uid` is its address and never changes."""

    uid: str
    title: str
    about: str
    sections: tuple[Section, ...]
