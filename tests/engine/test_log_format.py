"""Whatever is logged is one printable line of bounded length."""

import io
import json
import logging
from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from engine.log_format import MAX_LINE_BYTES, JsonFormatter, OneLineFormatter, current_request_id, printable


def logged(
    message: str,
    error: Exception | None = None,
    formatter: logging.Formatter | None = None,
    **extra: object,
) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter or OneLineFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    if error is None:
        logger.warning("%s", message, extra=extra)
    else:
        try:
            raise error
        except Exception:
            logger.exception("%s", message, extra=extra)
    text = out.getvalue()
    assert text.endswith("\n")
    return text[:-1]


def test_ordinary_lines_are_as_they_were() -> None:
    assert logged("12 requests, é") == "WARNING test: 12 requests, é"


def test_line_breaks_and_escapes_are_shown() -> None:
    assert logged("a\r\nERROR root: b\x1b[31m\x00\u202e\u2028\ud800") == (
        r"WARNING test: a\r\nERROR root: b\x1b[31m\x00\u202e\u2028\ud800"
    )


def test_a_traceback_is_one_line_with_its_end() -> None:
    line = logged("failed", KeyError("a\nb"))
    assert line.startswith(r"ERROR test: failed\nTraceback (most recent call last):\n")
    assert line.endswith(r"KeyError: 'a\nb'")


def test_of_a_long_traceback_the_end_is_kept() -> None:
    line = logged("failed", ValueError("x" * 1_000_000 + " the end"))
    assert line.endswith("the end")
    assert len(line.encode()) <= MAX_LINE_BYTES


@given(st.text(max_size=50), st.sampled_from([1, 1000, 100_000]))
def test_any_text_is_printable_and_short(text: str, times: int) -> None:
    line = printable(text * times)
    assert line.isprintable()
    assert len(line.encode()) <= MAX_LINE_BYTES
    if text.isprintable() and len((text * times).encode()) <= MAX_LINE_BYTES:
        assert line == text * times


def test_fields_come_behind_the_message() -> None:
    assert (
        logged("request", fields={"status": 200, "path": "/a b"})
        == "WARNING test: request status=200 path=/a b"
    )


def test_an_event_as_json() -> None:
    line = json.loads(logged("hello", formatter=JsonFormatter(" (rank 2)"), fields={"status": 200}))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "test",
        "process": "rank 2",
        "status": 200,
        "message": "hello",
    }


def test_json_carries_the_request_that_is_served() -> None:
    token = current_request_id.set("r-1")
    try:
        assert json.loads(logged("a", formatter=JsonFormatter()))["request_id"] == "r-1"
        assert json.loads(logged("a", formatter=JsonFormatter(), request_id="r-2"))["request_id"] == "r-2"
    finally:
        current_request_id.reset(token)
    assert "request_id" not in json.loads(logged("a", formatter=JsonFormatter()))


def test_fields_that_are_no_json_are_shown_as_text() -> None:
    fields = {"many": ["x"] * 100_000, "path": Path("/a"), "none": None}
    out = logged("hello", formatter=JsonFormatter(), fields=fields)
    assert len(out) <= MAX_LINE_BYTES
    line = json.loads(out)
    assert (line["path"], line["none"], line["message"]) == ("/a", None, "hello")
    assert line["many"].startswith("['x', ")


def test_half_a_surrogate_pair_is_shown_and_not_written() -> None:
    error = ValueError("\udfff the end")
    line = orjson.loads(logged("half \ud800", error, JsonFormatter(), fields={"path": "\ud83d"}))
    assert (line["message"], line["path"]) == (r"half \ud800", r"\ud83d")
    assert line["exception"].endswith(r"ValueError: \udfff the end")


def test_json_keeps_the_end_of_a_traceback() -> None:
    line = json.loads(logged("failed", ValueError("x" * 100_000 + " the end"), JsonFormatter()))
    assert line["exception"].endswith("the end")
    assert line["message"] == "failed"


@given(st.text(max_size=50), st.sampled_from([1, 1000, 100_000]))
def test_any_text_is_one_whole_object_of_bounded_length(text: str, times: int) -> None:
    out = logged(text * times, formatter=JsonFormatter(), fields={"path": text * times})
    assert out.isascii()
    assert out.isprintable()
    assert len(out) <= MAX_LINE_BYTES
    line = json.loads(out)
    orjson.loads(out)  # stricter about halves of surrogate pairs
    if len(json.dumps(text * times)) < 1000:
        assert line["message"] == line["path"] == text * times
