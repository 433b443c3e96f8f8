"""A chat request at work: from a validated body to chat events, for every API that answers chats."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from engine.sampling_params import SamplingParams, check_context_length
from server.openai.answers import Answer, Usage, admit, end_tokens, make_choices
from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta
from server.openai.errors import ApiError
from server.openai.generation import Choice, run_choices
from server.openai.prompts import chat_prompt
from server.openai.protocol import ChatCompletionRequest
from server.openai.sampling import request_seed, sampling_params
from server.state import AppState


class ChatRun:
    """One admitted chat request.

    Attributes:
        answer: id, time and model of the answer.
        usage: grows with the events.
        num_choices: n.
    """

    def __init__(self, state: AppState, answer: Answer, prompt_tokens: int, choices: list[Choice]) -> None:
        self.answer = answer
        self.usage = Usage(prompt_tokens)
        self.num_choices = len(choices)
        self._state = state
        self._choices = choices

    @classmethod
    async def prepare(cls, state: AppState, fields: ChatCompletionRequest, id_prefix: str) -> "ChatRun":
        """Check, template and tokenise; nothing is sent to the engine yet.

        Args:
            id_prefix: of the answer's id, such as ``chatcmpl``.

        Raises:
            UnavailableError: not now.
            ApiError, InvalidRequestError: the request is at fault.
        """
        engine = admit(state, fields)
        if fields.top_logprobs is not None and not fields.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
        prompt = await chat_prompt(
            fields.messages, fields.add_generation_prompt is not False, state.chat_template, state.tokenizer
        )
        params = _params(state, fields, len(prompt.token_ids), engine.max_model_len)
        answer = Answer.begin(id_prefix, state.model_name, fields.stream_options)
        choices = make_choices(fields, answer, [prompt], [params], engine.vocab_size)
        return cls(state, answer, len(prompt.token_ids), choices)

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """What happens, as it happens; closing the generator aborts what still runs. Iterate once.

        Raises:
            UnavailableError, EngineDeadError, InvalidRequestError, ApiError: the first that any choice meets.
        """
        async with aclosing(run_choices(self._state, self._choices)) as deltas:
            async for delta in deltas:
                self.usage.count(delta, self.num_choices)
                if delta.text or delta.logprobs:
                    yield ContentDelta(delta.index, delta.text, delta.logprobs)
                if delta.finish_reason is not None:
                    yield ChatFinish(delta.index, delta.finish_reason, delta.stop_reason)


def _params(
    state: AppState, fields: ChatCompletionRequest, prompt_tokens: int, max_model_len: int
) -> list[SamplingParams]:
    """Sampling parameters of the `n` choices; without a limit an answer may fill the context."""
    given = fields.max_completion_tokens or fields.max_tokens
    max_tokens = max(1, max_model_len - prompt_tokens) if given is None else given
    check_context_length(prompt_tokens, max_tokens, max_model_len, "messages")
    seed = request_seed(fields)
    return [
        sampling_params(
            fields,
            state.generation_defaults,
            end_tokens(state),
            max_tokens=max_tokens,
            choice=choice,
            seed=seed,
            logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
            prompt_logprobs=None,
        )
        for choice in range(fields.n or 1)
    ]
