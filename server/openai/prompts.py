"""What the model is given: prompts in any of OpenAI's four shapes, fill-in-the-middle."""

import asyncio
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequestError
from engine.sampling_params import check_token_ids
from engine.tokenizer import Tokenizer
from server.openai.protocol import MAX_PROMPTS, CompletionRequest

INLINE_CHARS = 4096
"""Texts up to this length are tokenised on the event loop; longer ones would hold up other requests."""

_SHAPES = (
    "prompt must be a string, a list of strings, a list of token ids or a list of such lists, and not empty."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what `echo` repeats: the text as given, or decoded from ids when that is asked for.
    """

    token_ids: list[int]
    text: str


async def completion_prompts(
    request: CompletionRequest, tokenizer: Tokenizer, vocab_size: int
) -> list[Prompt]:
    """The prompts of a completion request, in order.

    Raises:
        InvalidRequestError: wrong shape, or ids that don't index the embedding.
    """
    given = split_prompts(request.prompt)
    add_special_tokens = request.add_special_tokens is not False
    if request.suffix:
        return [await _infill(given, request.suffix, tokenizer, add_special_tokens)]
    prompts = []
    for item in given:
        if isinstance(item, str):
            ids = await encode(tokenizer, item, add_special_tokens=add_special_tokens)
            text = item
        else:
            check_token_ids("prompt", item, vocab_size)
            ids, text = item, tokenizer.decode(item) if request.echo else ""
        check_token_ids("prompt", ids, vocab_size)
        prompts.append(Prompt(ids, text))
    return prompts


def split_prompts(prompt: Any) -> list[str | list[int]]:
    """Tell the four shapes apart, in time linear in the input and with one error at most."""
    if isinstance(prompt, str) and prompt:
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequestError(_SHAPES, param="prompt")
    if all(type(item) is int for item in prompt):
        return [prompt]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequestError(f"prompt may be a list of at most {MAX_PROMPTS} prompts.", param="prompt")
    for item in prompt:
        is_ids = isinstance(item, list) and item and all(type(token) is int for token in item)
        if not (is_ids or (isinstance(item, str) and item)):
            raise InvalidRequestError(_SHAPES, param="prompt")
    return prompt


async def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Tokenise, off the event loop when the text is long."""
    if len(text) <= INLINE_CHARS:
        return tokenizer.encode(text, add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens)


async def _infill(
    given: list[str | list[int]], suffix: str, tokenizer: Tokenizer, add_special_tokens: bool
) -> Prompt:
    """Prefix-suffix-middle form (arXiv 2207.14255); special tokens in the user's text stay text."""
    fim = tokenizer.fim
    if fim is None:
        raise InvalidRequestError(
            "suffix is not supported: this model has no fill-in-the-middle tokens.", param="suffix"
        )
    if len(given) != 1 or not isinstance(given[0], str):
        raise InvalidRequestError("suffix needs prompt to be one string.", param="suffix")
    prompt = given[0]

    def encode_parts() -> list[int]:
        before, after = (tokenizer.encode(text, False, parse_special=False) for text in (prompt, suffix))
        start = tokenizer.encode("", add_special_tokens)
        return [*start, fim.prefix, *before, fim.suffix, *after, fim.middle]

    return Prompt(await asyncio.to_thread(encode_parts), prompt)
