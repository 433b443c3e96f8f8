"""A text completion at work: from a validated body and its prompts to deltas, for every API that completes text."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from engine.messages import EngineReady
from engine.sampling_params import SamplingParams, check_context_length, check_token_ids
from server.openai.answers import Answer, Usage, end_tokens, make_choices
from server.openai.constraints import checked_constraint
from server.openai.generation import Choice, Delta, run_choices
from server.openai.prompts import Prompt
from server.openai.protocol import CompletionRequest
from server.openai.sampling import request_seed, sampling_params
from server.state import AppState

DEFAULT_MAX_TOKENS = 16


@dataclass(slots=True)
class CompletionRun:
    """One admitted request, without a wire format: what the engine is asked, and the answer's name and counts.

    Attributes:
        choices: `per_prompt` of each prompt, prompt by prompt.
        usage: grows with the deltas.
    """

    state: AppState
    answer: Answer
    prompts: list[Prompt]
    choices: list[Choice]
    per_prompt: int
    usage: Usage

    @classmethod
    async def begin(
        cls,
        state: AppState,
        engine: EngineReady,
        fields: CompletionRequest,
        id_prefix: str,
        prompts: list[Prompt],
    ) -> "CompletionRun":
        """Check what is asked of the engine; nothing is sent to it yet.

        Args:
            id_prefix: of the answer's id, such as ``cmpl``.

        Raises:
            UnavailableError: a grammar can't be tried out now.
            ApiError, InvalidRequestError: the request is at fault.
        """
        for prompt in prompts:
            check_token_ids("prompt", prompt.token_ids, engine.vocab_size)
        grammar = await checked_constraint(state, fields)
        params = [_params(state, fields, prompt, engine.max_model_len, grammar) for prompt in prompts]
        answer = Answer.begin(id_prefix, state.model_name, fields.stream_options)
        choices = make_choices(state, fields, answer, prompts, params, engine.vocab_size)
        usage = Usage(sum(len(prompt.token_ids) for prompt in prompts))
        return cls(state, answer, prompts, choices, fields.n or 1, usage)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """What comes, as it comes; closing the generator aborts what still runs. Iterate once.

        Raises:
            UnavailableError, EngineDeadError, InvalidRequestError, ApiError: the first that any choice meets.
        """
        async with aclosing(run_choices(self.state, self.choices)) as deltas:
            async for delta in deltas:
                self.usage.count(delta, self.per_prompt)
                yield delta


def _params(
    state: AppState, fields: CompletionRequest, prompt: Prompt, max_model_len: int, grammar: str | None
) -> list[SamplingParams]:
    """Sampling parameters of a prompt's `n` choices."""
    room = max_model_len - len(prompt.token_ids)
    max_tokens = fields.max_tokens
    if max_tokens is None:
        max_tokens = max(1, min(DEFAULT_MAX_TOKENS, room))
    check_context_length(len(prompt.token_ids), max_tokens, max_model_len, "prompt")
    seed = request_seed(fields)
    return [
        sampling_params(
            fields,
            state.generation_defaults,
            (*end_tokens(state), *prompt.end_tokens),
            max_tokens=max_tokens,
            choice=choice,
            seed=seed,
            logprobs=fields.logprobs,
            prompt_logprobs=fields.logprobs if fields.echo else None,
            loop_logprobs=bool(fields.loop_logprobs),
            grammar=grammar,
        )
        for choice in range(fields.n or 1)
    ]
