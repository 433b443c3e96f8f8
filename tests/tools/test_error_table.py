"""The committed table of errors is what the code says, and the code raises nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import InvalidRequestError
from engine.sampling_params import check_context_length
from server.error_catalogue import CATALOGUE, CONTEXT_LENGTH_EXCEEDED, ErrorKind
from server.openai.errors import ApiError
from tools.error_table import PAGE, page

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {"ApiError", "InvalidRequestError"}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run python -m tools.error_table"


def test_every_row_is_on_the_page() -> None:
    for kind in CATALOGUE.values():
        assert kind.when in page()


def literal_codes() -> Iterator[tuple[str, str]]:
    """(place, code) of every error raised with a code written out."""
    for package in ("server", "engine"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                    for keyword in node.keywords:
                        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", str(keyword.value.value)


def test_no_code_is_raised_that_is_not_in_the_table() -> None:
    known = {kind.code for kind in CATALOGUE.values()}
    found = list(literal_codes())
    assert found, "the engine raises one"
    assert [(place, code) for place, code in found if code not in known] == []


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=CATALOGUE)
def test_rows_are_sound(kind: ErrorKind) -> None:
    assert 400 <= kind.status < 600
    blame = "invalid_request_error" if kind.status < 500 else "server_error"
    assert kind.type == {429: "rate_limit_error"}.get(kind.status, blame)
    assert kind.code is None or re.fullmatch(r"[a-z_]+", kind.code)
    assert "|" not in kind.text + kind.when
    assert kind.when.endswith(".")


def test_a_code_means_one_status() -> None:
    statuses: dict[str, set[int]] = {}
    for kind in CATALOGUE.values():
        if kind.code is not None:
            statuses.setdefault(kind.code, set()).add(kind.status)
    assert all(len(found) == 1 for found in statuses.values())


def test_the_engines_overflow_has_the_tables_text() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_context_length(600, 7, 512, "prompt")
    told = CONTEXT_LENGTH_EXCEEDED.message(limit=512, prompt=600, wanted=7, field="prompt")
    assert str(caught.value) == told
    assert caught.value.code == CONTEXT_LENGTH_EXCEEDED.code


def test_values_with_braces_are_not_places() -> None:
    error = ApiError.of(CATALOGUE["UNSUPPORTED_PARAMETER"], field="{field}{0}")
    assert error.message == "{field}{0} is not supported by this server."
