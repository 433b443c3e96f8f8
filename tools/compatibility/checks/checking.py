"""What the check scripts share.

Only the standard library: each script runs under its client's own interpreter, where loopserve is not installed. A
script registers its checks by feature; `main` runs those of the features that its command line names and prints a JSON
line for each feature.

The server under test is named by the environment: LOOPSERVE_URLS (one or more, by commas), LOOPSERVE_KEY and
LOOPSERVE_MODEL.
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

URLS = os.environ["LOOPSERVE_URLS"].split(",")
URL = URLS[0]
API = f"{URL}/v1"
KEY = os.environ["LOOPSERVE_KEY"]
MODEL = os.environ["LOOPSERVE_MODEL"]
WRONG_KEY = "not-the-key"
UNKNOWN_MODEL = "no-such-model"
TIMEOUT_S = 60.0

PROMPT = "def add(a, b):\n"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Write a function that adds two numbers."},
]
TOO_LONG = "one two three four " * 2000
"""More tokens than the served model has positions."""
LONG_RUN = 1500
"""Tokens of an answer that a check cancels: many seconds of work."""

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "London", "Rome"]},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": PARAMETERS},
}
OTHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_alarm",
        "description": "Set an alarm.",
        "parameters": {
            "type": "object",
            "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
            "required": ["hour"],
            "additionalProperties": False,
        },
    },
}
ASK_WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "language": {"type": "string", "enum": ["python", "rust", "go"]},
        "level": {"type": "integer", "minimum": 1, "maximum": 5},
        "typed": {"type": "boolean"},
    },
    "required": ["language", "level", "typed"],
    "additionalProperties": False,
}
ASK_LANGUAGE: list[Any] = [{"role": "user", "content": "Describe a programming language."}]

Check = Callable[[], object]
_checks: dict[str, list[Check]] = {}


def feature(name: str) -> Callable[[Check], Check]:
    """Registers a check; a feature may have several, all of which must pass."""

    def register(check: Check) -> Check:
        _checks.setdefault(name, []).append(check)
        return check

    return register


def main(package: str) -> None:
    """Run the checks of the features named on the command line.

    Args:
        package: whose installed version is reported.
    """
    _print({"version": version(package)})
    for name in sys.argv[1:]:
        errors = [error for check in _checks.get(name, [_missing]) if (error := _failure(check))]
        _print({"feature": name, "passed": not errors, "detail": "; ".join(errors)})


def require(condition: object, message: object) -> None:
    """Fail the check with a message unless the condition holds."""
    if not condition:
        raise AssertionError(str(message))


def equal(found: object, wanted: object, what: str) -> None:
    """Fail the check unless both are equal."""
    require(found == wanted, f"{what}: {found!r}, not {wanted!r}")


def raises(kind: type[BaseException], call: Callable[[], object]) -> Any:
    """The exception of exactly this class (or one below it) that the call must raise."""
    try:
        call()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of {kind.__name__}: {error}") from error
    raise AssertionError(f"no error instead of {kind.__name__}")


def check_weather(arguments: object) -> None:
    """Arguments of `TOOL`, as text or parsed, obey its schema."""
    values = json.loads(arguments) if isinstance(arguments, str) else arguments
    require(isinstance(values, dict), f"arguments are {values!r}")
    equal(sorted(values), ["city", "unit"], "argument names")
    for name, value in values.items():
        require(value in PARAMETERS["properties"][name]["enum"], f"{name} is {value!r}")


def check_language(text: object) -> None:
    """A JSON text, or its value, obeys `SCHEMA`."""
    values = json.loads(text) if isinstance(text, str) else text
    require(isinstance(values, dict), f"answer is {values!r}")
    equal(sorted(values), ["language", "level", "typed"], "keys")
    require(values["language"] in SCHEMA["properties"]["language"]["enum"], values)
    require(type(values["level"]) is int and 1 <= values["level"] <= 5, values)
    require(type(values["typed"]) is bool, values)


def request(path: str, body: object = None, url: str = URL) -> Any:
    """Ask the server without any client: for what no client has a call for."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url + path, data, headers), timeout=TIMEOUT_S
    ) as answer:
        content = answer.read()
    return (
        json.loads(content) if answer.headers.get_content_type() == "application/json" else content.decode()
    )


def metric(name: str, url: str = URL) -> float:
    """A series of /metrics, by its name with labels; 0 if it isn't there."""
    for line in request("/metrics", url=url).splitlines():
        key, _, value = line.rpartition(" ")
        if key == name:
            return float(value)
    return 0.0


def check_cancelled(start: Callable[[], Callable[[], object]]) -> None:
    """A client that goes away frees its request at once.

    Args:
        start: begins an answer of `LONG_RUN` tokens, reads its first part and returns what ends the connection.
    """
    aborted = 'loopserve_request_success_total{finished_reason="abort"}'
    before = metric(aborted)
    leave = start()
    _await("the request runs", lambda: metric("loopserve_num_requests_running") > 0)
    leave()
    _await("no request runs", lambda: metric("loopserve_num_requests_running") == 0)
    _await("the request counts as aborted", lambda: metric(aborted) == before + 1)


def _await(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        require(time.monotonic() < deadline, f"not within 5 s: {what}")
        time.sleep(0.02)


def _missing() -> None:
    raise AssertionError("the script has no check of this name")


def _failure(check: Check) -> str:
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:600]
    return ""


def _print(line: dict[str, object]) -> None:
    # Clients may have redirected or decorated stdout; a line of its own survives a progress bar.
    sys.__stdout__.write("\n" + json.dumps(line) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]
