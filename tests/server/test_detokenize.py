"""Streamed text equals the plain definition, however the text is cut into tokens."""

import codecs
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.detokenize import TextAssembler

ALPHABET = "ab.é日🙂"


class PieceDecoder:
    """Token id = index of a piece of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._pieces[token_id])

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def assembler(pieces: list[bytes], stops: list[str], include: bool, min_tokens: int) -> TextAssembler:
    return TextAssembler(
        PieceDecoder(pieces),  # type: ignore[arg-type]
        stops,
        include_stop=include,
        min_tokens=min_tokens,
    )


def streamed(
    pieces: list[bytes], stops: list[str], include: bool = False, min_tokens: int = 0
) -> tuple[list[str], str | None]:
    """What is shown after each token, and the stop string that ended the text."""
    text = assembler(pieces, stops, include, min_tokens)
    shown = []
    for token_id in range(len(pieces)):
        shown.append(text.push(token_id))
        if text.stopped_by is not None:
            return shown, text.stopped_by
    return [*shown, text.finish()], text.stopped_by


def plain(
    pieces: list[bytes], stops: list[str], include: bool = False, min_tokens: int = 0
) -> tuple[str, str | None]:
    """The definition: decode everything; of the stops after the exempt text, the one complete first, then longest."""
    text = b"".join(pieces).decode(errors="replace")
    exempt = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(b"".join(pieces[:min_tokens]))
    if len(pieces) < min_tokens:
        return text, None
    for end in range(len(exempt) + 1, len(text) + 1):
        ending = [stop for stop in stops if text[len(exempt) : end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@st.composite
def cut_texts(draw: st.DrawFn) -> list[bytes]:
    """A text's bytes, cut anywhere, in the middle of characters too; sometimes the last one is unfinished."""
    data = draw(st.text(ALPHABET, max_size=24)).encode()
    data = data[: len(data) - draw(st.integers(0, 2))]
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=24)) | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


stop_lists = st.lists(st.text(ALPHABET + "\ufffd", min_size=1, max_size=4), max_size=4)


@given(cut_texts(), stop_lists, st.booleans(), st.integers(0, 3))
@example([b"abc"], ["abc", "b"], False, 0)
@example([b"a", b"b", b"c"], ["abc", "b"], False, 0)
@example([b"\xe6", b"\x97"], ["\ufffd"], False, 0)
def test_streamed_text_is_the_plain_text(
    pieces: list[bytes], stops: list[str], include: bool, min_tokens: int
) -> None:
    shown, stopped_by = streamed(pieces, stops, include, min_tokens)
    assert ("".join(shown), stopped_by) == plain(pieces, stops, include, min_tokens)


@given(st.text(ALPHABET, max_size=24), stop_lists, st.data())
def test_the_cuts_dont_matter(text: str, stops: list[str], data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    pieces = [encoded[start:end] for start, end in itertools.pairwise(cuts)]
    shown, stopped_by = streamed(pieces, stops)
    whole, whole_stop = streamed([encoded], stops)
    assert ("".join(shown), stopped_by) == ("".join(whole), whole_stop)


@given(cut_texts(), stop_lists)
def test_no_more_is_held_back_than_could_become_a_stop(pieces: list[bytes], stops: list[str]) -> None:
    shown, stopped_by = streamed(pieces, stops)
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoded = ""
    for count, piece in enumerate(pieces[: len(shown)]):
        decoded += utf8.decode(piece)
        held = decoded[len("".join(shown[: count + 1])) :]
        last = stopped_by is not None and count == len(shown) - 1
        assert last or not held or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_stop_across_tokens_never_leaks(size: int) -> None:
    data = "Ende </日本> rest".encode()
    shown, stopped_by = streamed([data[i : i + size] for i in range(0, len(data), size)], ["</日本>"])
    assert ("".join(shown), stopped_by) == ("Ende ", "</日本>")


def test_nothing_follows_a_stop() -> None:
    text = assembler([b"a.b", b"c"], ["."], False, 0)
    assert text.push(0) == "a"
    assert text.push(1) == ""
    assert text.finish() == ""
