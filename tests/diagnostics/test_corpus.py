"""Which texts are read, and that no file can make the reader hold more than it may."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagnostics import corpus
from diagnostics.corpus import Corpus, choose
from diagnostics.errors import DiagnosticsError


def texts_of(found: Corpus) -> dict[str, str | None]:
    return {place.name: text for place, text in found.texts()}


def test_a_text_file_is_one_document_and_a_line_of_json_another(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("a = 1\nb = 2\n")
    lines = [{"text": "erste"}, {"text": "zweite\nZeile", "other": 1}]
    (tmp_path / "more.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    found = choose([tmp_path / "one.py", tmp_path / "more.jsonl"], 10, 0)
    assert texts_of(found) == {
        "one.py": "a = 1\nb = 2\n",
        "more.jsonl, line 1": "erste",
        "more.jsonl, line 3": "zweite\nZeile",
    }
    assert (found.found, found.is_complete, found.skipped) == (3, True, Counter())


def test_a_directory_stands_for_its_plain_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / ".hidden").mkdir()
    (data / "__pycache__").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", ".secret", ".hidden/d.txt", "__pycache__/x"):
        (data / name).write_text(name)
    (data / "link.txt").symlink_to(data / "a.txt")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "e.txt").write_text("e")
    (data / "folder-link").symlink_to(tmp_path / "outside")
    assert list(texts_of(choose([data], 10, 0))) == ["data/a.txt", "data/b.txt", "data/sub/c.txt"]


def test_names_in_reports_say_nothing_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path in (tmp_path / "a.txt", tmp_path):
        assert all(str(tmp_path.parent) not in place.name for place in choose([path], 10, 0).places)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 10_000, "not JSON"),
        (b"[1]", 'no "text"'),
        (b'{"text": 5}', 'no "text"'),
        (b'{"txt": "a"}', 'no "text"'),
        (b'{"text": "\\ud800"}', "not Unicode"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_lines_that_hold_no_text_are_skipped_with_a_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(line + b'\n{"text": "good"}\n')
    found = choose([tmp_path / "x.jsonl"], 10, 0)
    assert list(texts_of(found).values()) == [None, "good"]
    assert found.skipped == {reason: 1}


def test_a_file_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff\x00")
    found = choose([tmp_path / "picture"], 10, 0)
    assert texts_of(found) == {"picture": None}
    assert found.skipped == {"not UTF-8": 1}


@pytest.mark.parametrize("extra", range(6))
def test_a_long_file_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: int
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 10 + extra)
    (tmp_path / "x.txt").write_text("aé€😀" * 5)
    (text,) = texts_of(choose([tmp_path / "x.txt"], 1, 0)).values()
    assert text is not None
    assert ("aé€😀" * 5).startswith(text)
    assert 10 + extra - 3 <= len(text.encode()) <= 10 + extra


def test_a_file_that_ends_within_a_character_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("ab€".encode()[:-1])
    found = choose([tmp_path / "x.txt"], 1, 0)
    assert texts_of(found) == {"x.txt": None}


def test_a_line_that_is_too_long_is_skipped_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "MAX_DOCUMENT_BYTES", 1000)
    with (tmp_path / "x.jsonl").open("w") as file:
        file.write('{"text": "a"}\n{"text": "')
        for _ in range(2000):
            file.write("b" * 5000)
        file.write('"}\n{"text": "c"}\n')
    tracemalloc.start()
    found = choose([tmp_path / "x.jsonl"], 10, 0)
    texts = list(texts_of(found).values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts == ["a", None, "c"]
    assert found.skipped == {"line too long": 1}
    assert peak < 1 << 20


def test_no_more_documents_are_looked_at_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_LISTED", 5)
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n' * 9)
    found = choose([tmp_path / "x.jsonl"], 3, 0)
    assert (found.found, found.is_complete, len(found.places)) == (5, False, 3)


def test_what_is_missing_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticsError, match="no such file"):
        choose([tmp_path / "nowhere"], 1, 0)
    (tmp_path / "empty.jsonl").write_text("\n  \n")
    with pytest.raises(DiagnosticsError, match="names no document"):
        choose([tmp_path / "empty.jsonl"], 1, 0)
    with pytest.raises(DiagnosticsError, match="neither a file nor a directory"):
        choose([Path("/dev/null")], 1, 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(1, 40), most=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_sample_is_of_different_documents_in_their_order(
    tmp_path: Path, number: int, most: int, seed: int
) -> None:
    file = tmp_path / f"{number}.jsonl"
    file.write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(number)))
    found = choose([file], most, seed)
    texts = [int(text) for text in texts_of(found).values() if text is not None]
    assert len(texts) == min(most, number)
    assert texts == sorted(set(texts))
    assert texts == [int(t) for t in texts_of(choose([file], most, seed)).values() if t is not None]


def test_a_sample_favours_no_document(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(20)))
    drawn = Counter(text for seed in range(600) for text in texts_of(choose([file], 5, seed)).values())
    assert len(drawn) == 20
    assert all(abs(count - 150) < 60 for count in drawn.values())  # 5.6 standard deviations
