"""Whatever is logged is one printable line of bounded length."""

import io
import logging

from hypothesis import given
from hypothesis import strategies as st

from engine.log_format import MAX_LINE_BYTES, OneLineFormatter, printable


def logged(message: str, error: Exception | None = None) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLineFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    if error is None:
        logger.warning("%s", message)
    else:
        try:
            raise error
        except Exception:
            logger.exception("%s", message)
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
