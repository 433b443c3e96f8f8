"""Values of command line options that the engine's options take: read and checked. Torch-free."""

import msgspec

from engine.errors import OptionError


def json_object(text: str, option: str) -> dict[str, object]:
    """The JSON object that an option's text is.

    Raises:
        OptionError: it is something else.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise OptionError(f"{option} must be a JSON object: {error}") from None


def one_of(value: str, option: str, allowed: tuple[str, ...]) -> str:
    """The value, which is among those allowed.

    Raises:
        OptionError: it isn't.
    """
    if value not in allowed:
        raise OptionError(f"{option} must be one of {', '.join(allowed)}, not {value!r}")
    return value
