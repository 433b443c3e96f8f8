"""Typed, bounded access to the values of a decoded JSON object, with one error text per mistake."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import ConfigError

_SHORT = reprlib.Repr()
_SHORT.maxstring = 100  # the longest tensor names fit; the default cuts at 30


def shown(value: object) -> str:
    """The value for an error line: one line, short, safe for any depth."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number of thousands of digits"


@dataclass(frozen=True)
class Fields:
    """The values of one JSON object.

    Attributes:
        where: prefix of error lines, such as the file's name.
    """

    where: str
    values: Mapping[str, object]

    def integer(self, key: str, low: int, high: int) -> int:
        """The integer at `key`; booleans and floats are not integers.

        Raises:
            ConfigError: missing, of another type, or outside [low, high].
        """
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            allowed = f"{low}" if low == high else f"an integer from {low} to {high}"
            raise self._error(key, allowed)
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """As `integer`, or None where the key is missing or null."""
        return None if self.values.get(key) is None else self.integer(key, low, high)

    def number(self, key: str, low: float, high: float) -> float:
        """The finite number at `key`, as a float.

        Raises:
            ConfigError: missing, of another type, not finite, or outside [low, high].
        """
        value = self.values.get(key)
        # Compared before conversion: a huge integer has no float. NaN fails every comparison.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._error(key, f"a number from {low:g} to {high:g}")
        number = float(value)
        if not math.isfinite(number):
            raise self._error(key, "a finite number")
        return number

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        """As `number`, or None where the key is missing or null."""
        return None if self.values.get(key) is None else self.number(key, low, high)

    def boolean(self, key: str, default: bool) -> bool:
        """The boolean at `key`; missing or null is `default`.

        Raises:
            ConfigError: of another type.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._error(key, "true or false")
        return value

    def _error(self, key: str, allowed: str) -> ConfigError:
        got = f"got {shown(self.values[key])}" if key in self.values else "it is missing"
        return ConfigError(f"{self.where}: {key} must be {allowed}, {got}.")
