"""What the model is given: prompts in any of OpenAI's four shapes, chat messages, fill-in-the-middle."""

import asyncio
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequestError
from engine.sampling_params import check_token_ids
from engine.tokenizer import Tokenizer
from server.chat_template import ChatTemplate
from server.openai.protocol import MAX_PROMPTS, ChatMessage, CompletionRequest

INLINE_CHARS = 4096
"""Texts up to this length are tokenised on the event loop; longer ones would hold up other requests."""

_SHAPES = (
    "prompt must be a string, a list of strings, a list of token ids or a list of such lists, and not empty."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        text: as given, or decoded from the ids; what `echo` repeats.
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
    if request.suffix is not None:
        return [await _infill(given, request.suffix, tokenizer)]
    prompts = []
    for item in given:
        if isinstance(item, str):
            ids = await encode(tokenizer, item, add_special_tokens=request.add_special_tokens)
            text = item
        else:
            ids, text = item, ""
        check_token_ids("prompt", ids, vocab_size)
        prompts.append(Prompt(ids, text or tokenizer.decode(ids)))
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


async def chat_prompt(
    messages: list[ChatMessage],
    add_generation_prompt: bool,
    template: ChatTemplate | None,
    tokenizer: Tokenizer,
) -> Prompt:
    """Messages through the model's chat template.

    Special tokens spelled in a message's content are parsed as such, as in every server that renders Hugging Face
    templates to text.

    Raises:
        InvalidRequestError: no template, a template error, or content that is not text.
    """
    if template is None:
        raise InvalidRequestError(
            "This model has no chat template; start the server with --chat-template FILE or use /v1/completions.",
            param="messages",
        )
    plain = [{**(m.model_extra or {}), "role": m.role, "content": text_content(m.content)} for m in messages]
    text = template.render(plain, add_generation_prompt)
    ids = await encode(tokenizer, text, add_special_tokens=False)
    if not ids:
        raise InvalidRequestError(
            "The chat template made an empty prompt of these messages.", param="messages"
        )
    return Prompt(ids, text)


def text_content(content: Any) -> str:
    """A message's content as text; a list of text parts is joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    raise InvalidRequestError(
        "content must be a string or a list of {type: 'text', text: …} parts; this model reads text only.",
        param="messages",
    )


async def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Tokenise, off the event loop when the text is long."""
    if len(text) <= INLINE_CHARS:
        return tokenizer.encode(text, add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens)


async def _infill(given: list[str | list[int]], suffix: str, tokenizer: Tokenizer) -> Prompt:
    """Prefix-suffix-middle form (arXiv 2207.14255); special tokens in the user's text stay text."""
    fim = tokenizer.fim
    if fim is None:
        raise InvalidRequestError(
            "suffix is not supported: this model has no fill-in-the-middle tokens.", param="suffix"
        )
    if len(given) != 1 or not isinstance(given[0], str):
        raise InvalidRequestError("suffix needs prompt to be one string.", param="suffix")
    prefix_ids, suffix_ids = await asyncio.to_thread(
        lambda text: (tokenizer.encode(text, False, False), tokenizer.encode(suffix, False, False)), given[0]
    )
    return Prompt([fim.prefix, *prefix_ids, fim.suffix, *suffix_ids, fim.middle], given[0])


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
