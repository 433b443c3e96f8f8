"""How a simulation ends early."""


class WrongResultError(Exception):
    """The engine gave something else than it owed, or owes something for too long."""


class InjectedFaultError(BaseException):
    """The engine's process died in a pass, so nothing in the engine can catch it; the engine is started again."""


class CurseError(Exception):
    """What the engine does for one request, or with it in a batch, raises this."""


class HiccupError(Exception):
    """A pass fails once, whoever is in it, and not again."""


PanicException: type[BaseException] = type("PanicException", (BaseException,), {})
"""As pyo3 would raise: every Rust library has such a class of its own, which is no `Exception`."""


class SimulationError(Exception):
    """An episode failed; the text says how to see it again."""


def require(condition: bool, what: str) -> None:
    """Go on only if `condition` holds.

    Raises:
        WrongResultError: saying `what`.
    """
    if not condition:
        raise WrongResultError(what)
