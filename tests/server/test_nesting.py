"""Objects and lists in JSON text are counted as a decoder would find them, and in little time whatever the text is."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.openai.nesting import containers, holds_more_containers

VALUES = st.recursive(
    st.none() | st.text('"\\[{x', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\[{x', max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_the_count_is_that_of_the_decoded_value(value: object) -> None:
    number = sum(len(level) for level in containers(value))
    text = json.dumps(value).encode()
    assert not holds_more_containers(text, number)
    assert number == 0 or holds_more_containers(text, number - 1)


@pytest.mark.parametrize("unit", [b"[],", b'\\"[', b'"["', b'"\\\\["', b'"[', b"{[\\"])
@pytest.mark.parametrize("start", [b"", b'"'])
def test_no_text_takes_long(unit: bytes, start: bytes) -> None:
    text = start + unit * ((4 << 20) // len(unit))
    started = time.process_time()
    holds_more_containers(text, 1 << 17)
    assert time.process_time() - started < 2.0
