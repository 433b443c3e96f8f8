"""`python -m server.healthcheck`: is this container's server ready? The image's HEALTHCHECK.

It asks `/ready`, which needs no API key, at the address and port that `LOOPSERVE_HOST` and `LOOPSERVE_PORT` name; those
given as options it can't know. Only the standard library, since it runs every few seconds.
"""

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 4
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port to ask.

    Raises:
        ValueError: the port is no number.
    """
    host = environment.get("LOOPSERVE_HOST", "127.0.0.1")
    return _ANY.get(host, host), int(environment.get("LOOPSERVE_PORT", "8000"))


def problem(host: str, port: int) -> str | None:
    """What is wrong with the server there, or None. Asks it directly: a proxy of the environment is for the way out."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace")
        return None if answer.status == 200 else f"{answer.status}: {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def main() -> int:
    """0 when ready, else 1 with the reason on stdout, where `docker inspect` shows it."""
    try:
        found = problem(*address(os.environ))
    except ValueError as error:
        found = f"LOOPSERVE_PORT: {error}"
    if found is not None:
        print(found)
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
