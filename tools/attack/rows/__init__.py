"""The catalogue: every row, by topic."""

from tools.attack.case import Row
from tools.attack.rows import (
    auth,
    json_and_http,
    numbers,
    slow_clients,
    ssrf_and_names,
    structured,
    templates_and_tools,
    tokens_and_text,
)

CATALOGUE: tuple[Row, ...] = (
    *numbers.ROWS,
    *tokens_and_text.ROWS,
    *json_and_http.ROWS,
    *slow_clients.ROWS,
    *structured.ROWS,
    *templates_and_tools.ROWS,
    *ssrf_and_names.ROWS,
    *auth.ROWS,
)
"""All rows, in the order of their numbers."""
