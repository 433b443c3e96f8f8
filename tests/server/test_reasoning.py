"""Reasoning told apart from the answer."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.openai.reasoning import ReasoningSplitter


def split(text: str, cuts: Sequence[int] = (), *, begun: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(begun=begun)
    parts = [splitter.push(text[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), len(text)])]
    parts.append(splitter.finish())
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("text", "begun", "expected"),
    [
        ("<think>\nhm\n\nso\n</think>\n\nanswer \n", False, ("hm\n\nso", "answer \n")),
        ("  <think>hm</think>a", False, ("hm", "a")),
        ("hm\n</think>\n\na", True, ("hm", "a")),
        ("\n plain", False, ("", "\n plain")),
        ("say <think> x </think>", False, ("", "say <think> x </think>")),
        ("<think>a</think>b<think>c</think>", False, ("a", "b<think>c</think>")),
        ("<think>cut off </thi", False, ("cut off </thi", "")),
        ("<thi", False, ("", "<thi")),
        ("<think></think>a", False, ("", "a")),
        ("", True, ("", "")),
        (" \n", False, ("", " \n")),
    ],
)
def test_splitting(text: str, begun: bool, expected: tuple[str, str]) -> None:
    assert split(text, begun=begun) == expected
    assert split(text, range(1, len(text)), begun=begun) == expected


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "a", "b", "<", "</thi"]), max_size=9)


@given(st.data(), PIECES, st.booleans())
def test_pieces_make_no_difference(data: st.DataObject, pieces: list[str], begun: bool) -> None:
    text = "".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=9))
    whole = split(text, begun=begun)
    assert split(text, cuts, begun=begun) == whole
    assert "".join(whole).count("a") == text.count("a")


def test_reasoning_comes_as_it_is_written() -> None:
    splitter = ReasoningSplitter(begun=False)
    assert splitter.push("<think>first ") == ("first", "")
    assert splitter.push("then") == (" then", "")
