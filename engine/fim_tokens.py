"""Fill-in-the-middle markers of a vocabulary, by the spellings that code models use."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class FimSpelling:
    """One family's markers. A vocabulary has them if it has the first three; "" is a marker the family lacks."""

    prefix: str
    suffix: str
    middle: str
    pad: str = ""
    repo: str = ""
    file: str = ""
    end: str = ""


FIM_SPELLINGS = (
    # Qwen and IQuest; StarCoder2 and StarCoder; SantaCoder; Code Llama twice; DeepSeek.
    FimSpelling(
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"),
        *("<|repo_name|>", "<|file_sep|>"),
    ),
    FimSpelling(
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"),
    ),
    FimSpelling("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<reponame>", "<filename>"),
    FimSpelling("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),
    FimSpelling("<PRE>", "<SUF>", "<MID>", end="<EOT>"),
    FimSpelling("▁<PRE>", "▁<SUF>", "▁<MID>", end="▁<EOT>"),
    FimSpelling("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


@dataclass(frozen=True)
class FimTokens:
    """Ids of the markers.

    Attributes:
        repo: stands before a repository's name, or None.
        file: stands before a file's name and text, or None.
        ends: every marker, and the family's own end of a middle: none of them belongs into an answer, so each ends it.
    """

    prefix: int
    suffix: int
    middle: int
    repo: int | None = None
    file: int | None = None
    ends: tuple[int, ...] = ()


def find_fim_tokens(token_id: Callable[[str], int | None]) -> FimTokens | None:
    """The markers of a vocabulary, or None if it has none.

    Args:
        token_id: gives the id of the special token of a spelling, or None.
    """
    found = [tokens for spelling in FIM_SPELLINGS if (tokens := _find(spelling, token_id)) is not None]
    # Two families share the first three: the one with a file marker in this vocabulary is meant.
    return max(found, key=lambda tokens: tokens.file is not None, default=None)


def _find(spelling: FimSpelling, token_id: Callable[[str], int | None]) -> FimTokens | None:
    prefix, suffix, middle = (token_id(text) for text in (spelling.prefix, spelling.suffix, spelling.middle))
    if prefix is None or suffix is None or middle is None:
        return None
    pad, repo, file, end = (
        token_id(text) if text else None
        for text in (spelling.pad, spelling.repo, spelling.file, spelling.end)
    )
    ends = [token for token in (prefix, suffix, middle, pad, repo, file, end) if token is not None]
    return FimTokens(prefix, suffix, middle, repo, file, tuple(ends))
