"""How a simulation ends early."""


class WrongResultError(Exception):
    """The engine gave something else than it owed, or owes something for too long."""


class InjectedFaultError(BaseException):
    """The engine's process died in a pass, so nothing in the engine can catch it; the engine is started again."""


class SimulationError(Exception):
    """An episode failed; the text says how to see it again."""


def require(condition: bool, what: str) -> None:
    """Go on only if `condition` holds.

    Raises:
        WrongResultError: saying `what`.
    """
    if not condition:
        raise WrongResultError(what)
