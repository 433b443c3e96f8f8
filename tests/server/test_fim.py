"""The one builder of fill-in-the-middle prompts."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequestError
from engine.fim_tokens import FimTokens
from engine.tokenizer import Tokenizer
from server.openai.fim import (
    CURRENT_FILE,
    REPOSITORY,
    Gap,
    Snippet,
    fim_prompt,
    fitted_fim_prompt,
    plain_prompt,
)
from server.openai.prompts import Prompt
from tests.server.fim_tokenizers import MARKERS, REPOSITORY_MARKERS, tokenizer_with

BARE, REPO = tokenizer_with(*MARKERS), tokenizer_with(*REPOSITORY_MARKERS)
PREFIX, SUFFIX, MIDDLE, PAD, REPO_NAME, FILE_SEP = range(3, 9)


def build(tokenizer: Tokenizer, gap: Gap, **options: Any) -> Prompt:
    return asyncio.run(fim_prompt(tokenizer, gap, add_special_tokens=True, param="suffix", **options))


def fit(tokenizer: Tokenizer, gap: Gap, room: int) -> tuple[list[int], bool]:
    prompt, cut = asyncio.run(
        fitted_fim_prompt(tokenizer, gap, room=room, add_special_tokens=True, param="suffix")
    )
    return prompt.token_ids, cut


def text(tokenizer: Tokenizer, value: str) -> list[int]:
    return tokenizer.encode(value, False, parse_special=False)


def test_prefix_suffix_middle() -> None:
    prompt = build(BARE, Gap("ab", "c"))
    assert prompt.token_ids == [PREFIX, *text(BARE, "ab"), SUFFIX, *text(BARE, "c"), MIDDLE]
    assert prompt.end_tokens == (PREFIX, SUFFIX, MIDDLE)


@pytest.mark.parametrize("spelled", [*REPOSITORY_MARKERS, "</s>", "<s>"])
def test_spelled_markers_stay_text_everywhere(spelled: str) -> None:
    gap = Gap(f"a{spelled}", f"{spelled}b", [Snippet(f"{spelled}.py", f"c{spelled}")])
    ids = build(REPO, gap).token_ids
    once = [PREFIX, SUFFIX, MIDDLE, REPO_NAME]
    assert [ids.count(marker) for marker in once] == [1] * len(once)
    assert ids.count(FILE_SEP) == 2, "the snippet's and the current file's"
    assert not {0, 1, 2, PAD} & set(ids)
    assert asyncio.run(plain_prompt(REPO, spelled)).token_ids == text(REPO, spelled)


def test_snippets_in_the_form_of_a_repository() -> None:
    gap = Gap("a", "b", [Snippet("x.py", "1"), Snippet("y.py", "2\n")])
    assert build(REPO, gap).token_ids == [
        *(REPO_NAME, *text(REPO, f"{REPOSITORY}\n")),
        *(FILE_SEP, *text(REPO, "x.py\n1\n")),
        *(FILE_SEP, *text(REPO, "y.py\n2\n")),
        *(FILE_SEP, *text(REPO, f"{CURRENT_FILE}\n")),
        *(PREFIX, *text(REPO, "a"), SUFFIX, *text(REPO, "b"), MIDDLE),
    ]


def test_snippets_are_plain_text_where_the_vocabulary_has_no_markers_for_them() -> None:
    gap = Gap("a", "b", [Snippet("x.py", "1")])
    ids = [*text(BARE, "x.py\n1\n"), PREFIX, *text(BARE, "a"), SUFFIX, *text(BARE, "b"), MIDDLE]
    assert build(BARE, gap).token_ids == ids


def test_every_marker_ends_an_answer() -> None:
    assert REPO.fim == FimTokens(PREFIX, SUFFIX, MIDDLE, REPO_NAME, FILE_SEP, tuple(range(3, 9)))


@pytest.mark.parametrize(
    ("special", "file", "end"),
    [
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"), "<file_sep>", None),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>"), "<filename>", None),
        (("<fim-prefix>", "<fim-suffix>", "<fim-middle>"), None, None),
        (("<PRE>", "<SUF>", "<MID>", "<EOT>"), None, "<EOT>"),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), None, None),
    ],
)
def test_the_families_markers(special: tuple[str, ...], file: str | None, end: str | None) -> None:
    tokenizer = tokenizer_with(*special)
    fim = tokenizer.fim
    assert fim is not None
    assert (fim.prefix, fim.suffix, fim.middle) == (3, 4, 5)
    assert fim.file == (tokenizer.special_token_id(file) if file else None)
    assert end is None or tokenizer.special_token_id(end) in fim.ends


def test_a_model_without_markers_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="no fill-in-the-middle tokens") as caught:
        build(tokenizer_with("<|fim_prefix|>", "<|fim_suffix|>"), Gap("a", "b"))
    assert caught.value.param == "suffix"


def test_old_snippets_go_first_then_what_is_far_from_the_gap() -> None:
    extra = [Snippet("old", "o" * 20), Snippet("new", "n" * 20)]
    gap = Gap("p" * 40, "s" * 40, extra)
    whole = build(REPO, gap).token_ids
    assert fit(REPO, gap, len(whole)) == (whole, False)
    ids, cut = fit(REPO, gap, len(whole) - 1)
    assert (ids, cut) == (build(REPO, Gap(gap.prefix, gap.suffix, extra[1:])).token_ids, True)
    assert fit(REPO, gap, 83) == (build(REPO, Gap(gap.prefix, gap.suffix)).token_ids, True)
    ids, cut = fit(REPO, Gap("abcdefgh", "ABCDEFGH"), 3 + 8)
    assert (ids, cut) == (build(REPO, Gap("cdefgh", "AB")).token_ids, True)


def test_a_side_that_is_short_leaves_its_room_to_the_other() -> None:
    assert fit(BARE, Gap("abcdefgh", "A"), 3 + 7)[0] == build(BARE, Gap("cdefgh", "A")).token_ids
    assert fit(BARE, Gap("a", "ABCDEFGH"), 3 + 7)[0] == build(BARE, Gap("a", "ABCDEF")).token_ids


@settings(max_examples=200, deadline=None)
@given(
    prefix=st.text("ab", max_size=30),
    suffix=st.text("cd", max_size=30),
    extra=st.lists(st.text("ef", max_size=30), max_size=4),
    room=st.integers(0, 150),
    repository=st.booleans(),
)
def test_a_fitted_prompt_fits(
    prefix: str, suffix: str, extra: list[str], room: int, repository: bool
) -> None:
    tokenizer = REPO if repository else BARE
    gap = Gap(prefix, suffix, [Snippet("f", value) for value in extra])
    ids, cut = fit(tokenizer, gap, room)
    whole = build(tokenizer, gap).token_ids
    assert len(ids) <= max(room, 3)
    assert cut == (ids != whole)
    if len(whole) <= room:
        assert not cut
