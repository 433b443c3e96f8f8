"""Hypothesis strategy: what may happen in one chat answer."""

import json

from hypothesis import strategies as st

from server.openai.chat_events import ChatEvent, ChatFinish, ContentDelta, ReasoningDelta, ToolCallDelta

TEXTS = st.text(min_size=1, max_size=6)
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers() | st.none(), max_size=3)


@st.composite
def chat_event_lists(draw: st.DrawFn) -> list[ChatEvent]:
    """Reasoning, text and calls in any order, each in pieces, then the finish."""
    events: list[ChatEvent] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "text", "call"]), max_size=5)):
        if kind == "reasoning":
            events += [ReasoningDelta(0, text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))]
        elif kind == "text":
            events += [ContentDelta(0, text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))]
        else:
            arguments = json.dumps(draw(ARGUMENTS))
            cut = draw(st.integers(0, len(arguments)))
            events.append(ToolCallDelta(0, calls, f"call_{calls}", f"tool{calls}", arguments[:cut]))
            if cut < len(arguments):
                events.append(ToolCallDelta(0, calls, None, None, arguments[cut:]))
            calls += 1
    reason = draw(st.sampled_from(["length", "tool_calls" if calls else "stop"]))
    return [*events, ChatFinish(0, reason, None)]
