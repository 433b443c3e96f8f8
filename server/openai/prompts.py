"""What the model is given: prompts in any of OpenAI's four shapes."""

from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequestError
from engine.sampling_params import check_token_ids
from engine.tokenizer import Tokenizer
from server.long_texts import work_on
from server.openai.limits import RequestLimits
from server.openai.protocol import CompletionRequest

_SHAPES = (
    "prompt must be a string, a list of strings, a list of token ids or a list of such lists, and not empty."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        text: what `echo` repeats: the text as given, or decoded from ids when that is asked for.
        end_tokens: ids that end an answer to this prompt, beside the model's own.
    """

    token_ids: list[int]
    text: str
    end_tokens: tuple[int, ...] = ()


async def completion_prompts(
    request: CompletionRequest, limits: RequestLimits, tokenizer: Tokenizer, vocab_size: int
) -> list[Prompt]:
    """The prompts of a completion request without suffix, in order.

    Markers that a text spells become special tokens: clients such as Continue write the fill-in-the-middle form
    themselves. No prompt at all is refused. OpenAI's default is the end-of-document token, which answers a client's
    mistake with any text whatever; who wants that can send the token.

    Raises:
        InvalidRequestError: wrong shape, or ids that don't index the embedding.
    """
    prompts = []
    for item in split_prompts(request.prompt, limits):
        if isinstance(item, str):
            ids = await encode(tokenizer, item, add_special_tokens=request.add_special_tokens is not False)
        else:
            ids = item
        check_token_ids("prompt", ids, vocab_size)
        prompts.append(_shortened(item, ids, request, tokenizer))
    return prompts


def _shortened(
    given: str | list[int], ids: list[int], request: CompletionRequest, tokenizer: Tokenizer
) -> Prompt:
    """The prompt's last `truncate_prompt_tokens` tokens, and their text where that is needed."""
    most = request.truncate_prompt_tokens
    kept = ids if most is None else ids[-most:]
    if isinstance(given, str) and len(kept) == len(ids):
        return Prompt(kept, given)
    return Prompt(kept, tokenizer.decode(kept) if request.echo else "")


def split_prompts(prompt: Any, limits: RequestLimits) -> list[str | list[int]]:
    """Tell the four shapes apart, in time linear in the input and with one error at most."""
    if isinstance(prompt, str) and prompt:
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequestError(_SHAPES, param="prompt")
    if all(type(item) is int for item in prompt):
        return [prompt]
    if len(prompt) > limits.max_prompts:
        raise InvalidRequestError(
            f"prompt may be a list of at most {limits.max_prompts} prompts.", param="prompt"
        )
    for item in prompt:
        is_ids = isinstance(item, list) and item and all(type(token) is int for token in item)
        if not (is_ids or (isinstance(item, str) and item)):
            raise InvalidRequestError(_SHAPES, param="prompt")
    return prompt


async def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Tokenise, off the event loop when the text is long."""
    return await work_on(len(text), tokenizer.encode, text, add_special_tokens)
