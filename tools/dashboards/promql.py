"""The few shapes of query that the dashboards are made of.

Each sums over the servers that the variables `job` and `instance` select. `where` is more of a selector, such as
``reason="draining"``.
"""

_SERVERS = 'job=~"$job", instance=~"$instance"'
_WINDOW = "[$__rate_interval]"


def select(name: str, where: str = "") -> str:
    """The series of the chosen servers; `name` without the prefix, except for Prometheus' own ``up``."""
    metric = name if name == "up" else f"loopserve_{name}"
    return f"{metric}{{{_SERVERS}{', ' if where else ''}{where}}}"


def total(name: str, by: str = "", where: str = "") -> str:
    """The sum of a gauge, one series per value of the labels `by`."""
    return f"{_sum(by)} ({select(name, where)})"


def rate(name: str, by: str = "", where: str = "") -> str:
    """What a counter gains per second."""
    return f"{_sum(by)} (rate({select(name, where)}{_WINDOW}))"


def increase(name: str, window: str = "$__range", where: str = "") -> str:
    """What a counter has gained in a window, by default the one shown."""
    return f"sum (increase({select(name, where)}[{window}]))"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """The value that `share` of a histogram's observations stay below."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', by=labels)})"


def mean(summary: str, by: str = "") -> str:
    """The mean of what a summary or histogram observed."""
    return ratio(rate(f"{summary}_sum", by=by), rate(f"{summary}_count", by=by))


def buckets(histogram: str) -> str:
    """Observations per bucket, for a heat map."""
    return f"sum by (le) (increase({select(f'{histogram}_bucket')}{_WINDOW}))"


def ratio(upper: str, lower: str) -> str:
    """One expression divided by another."""
    return f"{upper}\n/\n{lower}"


def or_zero(expr: str) -> str:
    """0 where an expression has no series at all: none of its kind has been counted yet."""
    return f"({expr} or vector(0))"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
