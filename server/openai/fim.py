"""The only builder of fill-in-the-middle prompts: prefix-suffix-middle form (arXiv 2207.14255).

`suffix` on completions, `/v1/fim/completions` and `/infill` all end here. Markers are put in as token ids; whatever
the user's texts spell stays text, so a file that mentions ``<|fim_middle|>`` can't end its own prompt early. (A raw
completion prompt is another matter: clients that build the form themselves need its markers parsed.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequestError
from engine.fim_tokens import FimTokens
from engine.tokenizer import Tokenizer
from server.long_texts import work_on
from server.openai.prompts import Prompt

# What stands in for names that no client sends; Qwen's repository form (arXiv 2409.12186) wants some.
REPOSITORY = "project"
CURRENT_FILE = "current"

PREFIX_SHARE = 0.75
"""Of the room when prefix and suffix together are too long: what comes before the gap says more about it."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """Text of another file, to be read before the one with the gap."""

    filename: str
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """What is to be filled: the text between `prefix` and `suffix`.

    Attributes:
        extra: least relevant first; these go first when room is short.
    """

    prefix: str
    suffix: str
    extra: Sequence[Snippet] = ()


async def fim_prompt(tokenizer: Tokenizer, gap: Gap, *, add_special_tokens: bool, param: str) -> Prompt:
    """The whole gap as a prompt, however long.

    Args:
        param: the request field that an error names.

    Raises:
        InvalidRequestError: the model has no fill-in-the-middle tokens, or a text is no Unicode.
    """
    prompt, _ = await fitted_fim_prompt(
        tokenizer, gap, room=None, add_special_tokens=add_special_tokens, param=param
    )
    return prompt


async def fitted_fim_prompt(
    tokenizer: Tokenizer, gap: Gap, *, room: int | None, add_special_tokens: bool, param: str
) -> tuple[Prompt, bool]:
    """The gap as a prompt of at most `room` tokens, and whether something was left out for that.

    Snippets are left out before any of the gap's own text is; of that, what is nearest to the gap stays.

    Raises:
        InvalidRequestError: as in `fim_prompt`.
    """
    fim = tokenizer.fim
    if fim is None:
        raise InvalidRequestError(
            "This model has no fill-in-the-middle tokens; send an ordinary prompt without a suffix.",
            param=param,
        )
    builder = _Builder(tokenizer, fim)
    size = len(gap.prefix) + len(gap.suffix) + sum(len(snippet.text) for snippet in gap.extra)
    ids, cut = await work_on(size, builder.build, gap, room, add_special_tokens)
    return Prompt(ids, gap.prefix, end_tokens=fim.ends), cut


async def plain_prompt(tokenizer: Tokenizer, text: str) -> Prompt:
    """A prompt without a gap, for the fill-in-the-middle APIs: its text stays text there, too."""
    return Prompt(await work_on(len(text), tokenizer.encode, text, True, False), text)


class _Builder:
    """Makes token ids of gaps."""

    def __init__(self, tokenizer: Tokenizer, fim: FimTokens) -> None:
        self._tokenizer = tokenizer
        self._fim = fim

    def build(self, gap: Gap, room: int | None, add_special_tokens: bool) -> tuple[list[int], bool]:
        """Ids, and whether something was left out."""
        fim = self._fim
        start = self._tokenizer.encode("", add_special_tokens)
        before, after = self._text(gap.prefix), self._text(gap.suffix)
        extra = [self._snippet(snippet) for snippet in gap.extra]
        markers = len(start) + 3
        cut = False
        if room is not None:
            before, after, cut = _nearest(before, after, max(0, room - markers))
            left = room - markers - len(before) - len(after) - len(self._around_extra())
            kept = _last_that_fit(extra, left)
            cut, extra = cut or len(kept) < len(extra), kept
        context = self._context(extra)
        return [*start, *context, fim.prefix, *before, fim.suffix, *after, fim.middle], cut

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, False, parse_special=False)

    def _snippet(self, snippet: Snippet) -> list[int]:
        text = snippet.text if snippet.text.endswith("\n") else f"{snippet.text}\n"
        marker = [] if self._fim.file is None else [self._fim.file]
        return [*marker, *self._text(f"{snippet.filename}\n{text}")]

    def _context(self, extra: list[list[int]]) -> list[int]:
        """Snippets in the form of a repository where the vocabulary has its markers, else as plain text."""
        if not extra:
            return []
        repository, current = self._repository(), self._current()
        return [*repository, *(token for snippet in extra for token in snippet), *current]

    def _around_extra(self) -> list[int]:
        return [*self._repository(), *self._current()]

    def _repository(self) -> list[int]:
        return [] if self._fim.repo is None else [self._fim.repo, *self._text(f"{REPOSITORY}\n")]

    def _current(self) -> list[int]:
        return [] if self._fim.file is None else [self._fim.file, *self._text(f"{CURRENT_FILE}\n")]


def _nearest(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int], bool]:
    """What is nearest to the gap; a side that needs less than its share leaves the rest to the other."""
    if len(before) + len(after) <= room:
        return before, after, False
    for_before = max(int(room * PREFIX_SHARE), room - len(after))
    before = before[max(0, len(before) - for_before) :]
    return before, after[: room - len(before)], True


def _last_that_fit(extra: list[list[int]], room: int) -> list[list[int]]:
    kept = len(extra)
    while kept and len(extra[kept - 1]) <= room:
        kept -= 1
        room -= len(extra[kept])
    return extra[kept:]
