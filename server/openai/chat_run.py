"""A chat request at work: from a validated body to chat events, for every API that answers chats."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from engine.sampling_params import SamplingParams, check_context_length
from server.openai.answers import Answer, Usage, admit, end_tokens, make_choices
from server.openai.chat_events import ChatEvent
from server.openai.chat_prompt import chat_prompt, offered_tools
from server.openai.chat_reader import ChoiceReader
from server.openai.constraints import check_grammar, checked_constraint, constraint_of, lark_grammar
from server.openai.errors import ApiError
from server.openai.generation import Choice, run_choices
from server.openai.prompts import Prompt
from server.openai.protocol import ChatCompletionRequest
from server.openai.reasoning import THINK, THINK_END, ReasoningSplitter
from server.openai.sampling import request_seed, sampling_params
from server.openai.tool_parsers.grammars import calls_grammar
from server.openai.tools import Tool
from server.state import AppState


class ChatRun:
    """One admitted chat request.

    Attributes:
        answer: id, time and model of the answer.
        usage: grows with the events.
        num_choices: n.
    """

    def __init__(
        self,
        state: AppState,
        answer: Answer,
        prompt_tokens: int,
        choices: list[Choice],
        readers: list[ChoiceReader],
    ) -> None:
        self.answer = answer
        self.usage = Usage(prompt_tokens)
        self.num_choices = len(choices)
        self._state = state
        self._choices = choices
        self._readers = readers

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
        prompt = await chat_prompt(state, fields.messages, fields)
        tools = offered_tools(state, fields)
        calls = _forced_calls(state, fields, prompt, tools)
        if calls is None:
            grammar = await checked_constraint(state, fields)
        else:
            grammar = lark_grammar(calls)
            await check_grammar(state, grammar, "tools")
        params = _params(state, fields, len(prompt.token_ids), engine.max_model_len, grammar)
        answer = Answer.begin(id_prefix, state.model_name, fields.stream_options)
        shown = _shown_tokens(state, tools)
        choices = make_choices(state, fields, answer, [prompt], [params], engine.vocab_size, shown)
        # A constraint other than on calls holds from the first token on, so nothing can be reasoning.
        thinks = state.dialect.thinks and (grammar is None or calls is not None)
        begun = _within_reasoning(state, prompt)
        readers = [
            _reader(state, fields, choice.index, tools, begun if thinks else None) for choice in choices
        ]
        return cls(state, answer, len(prompt.token_ids), choices, readers)

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """What happens, as it happens; closing the generator aborts what still runs. Iterate once.

        Raises:
            UnavailableError, EngineDeadError, InvalidRequestError, ApiError: the first that any choice meets.
        """
        ended: set[int] = set()
        async with aclosing(run_choices(self._state, self._choices, ended)) as deltas:
            async for delta in deltas:
                self.usage.count(delta, self.num_choices)
                reader = self._readers[delta.index]
                for event in reader.read(delta):
                    yield event
                if reader.ended:
                    ended.add(delta.index)


def _params(
    state: AppState,
    fields: ChatCompletionRequest,
    prompt_tokens: int,
    max_model_len: int,
    grammar: str | None,
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
            grammar=grammar,
        )
        for choice in range(fields.n or 1)
    ]


def _reader(
    state: AppState, fields: ChatCompletionRequest, index: int, tools: list[Tool], reasoning: bool | None
) -> ChoiceReader:
    """How one choice's text is read.

    Args:
        reasoning: whether the prompt has opened it already; None if there can be none.
    """
    tool_format, choice = state.dialect.tools, fields.tool_choice
    named = choice is not None and choice.name is not None
    return ChoiceReader(
        index,
        None if reasoning is None else ReasoningSplitter(begun=reasoning),
        tool_format.parser(tools) if tools and tool_format else None,
        one_call=named or fields.parallel_tool_calls is False,
    )


def _within_reasoning(state: AppState, prompt: Prompt) -> bool:
    """Whether the template has already opened the model's reasoning."""
    return state.dialect.thinks and prompt.text.rstrip().endswith(THINK)


def _shown_tokens(state: AppState, tools: list[Tool]) -> frozenset[int]:
    """Special tokens that the readers have to see."""
    dialect = state.dialect
    marks = [
        *(dialect.tools.marks if tools and dialect.tools else ()),
        *((THINK, THINK_END) if dialect.thinks else ()),
    ]
    return frozenset(dialect.special[mark] for mark in marks if mark in dialect.special)


def _forced_calls(
    state: AppState, fields: ChatCompletionRequest, prompt: Prompt, tools: list[Tool]
) -> str | None:
    """The Lark text of the calls that `tool_choice` forces; None if it forces none."""
    choice, dialect = fields.tool_choice, state.dialect
    if choice is None or choice.mode != "required" or dialect.tools is None:
        return None
    if constraint_of(fields) is not None:
        raise ApiError(
            400,
            "response_format can't be met by an answer that has to be a tool call.",
            param="response_format",
        )
    return calls_grammar(
        dialect.tools.call,
        [tool for tool in tools if choice.name in (None, tool.name)],
        dialect.special,
        many=choice.name is None and fields.parallel_tool_calls is not False,
        thinking=THINK_END if _within_reasoning(state, prompt) else None,
    )
