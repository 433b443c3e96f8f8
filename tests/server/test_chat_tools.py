"""Tools, forced calls and reasoning on `/v1/chat/completions`, over a scripted engine."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from engine.messages import Request, RequestOutput
from server.openai.tool_parsers.formats import FORMATS
from tests.server.played import EOS, Played, Script, hangs, logprob_of, says, tokens
from tools.demo_model.layout import CHAT_TEMPLATE

URL = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
Make = Callable[..., Played]

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
OTHER = {"type": "function", "function": {"name": "now"}}
ARGUMENTS = {"city": "Köln\n", "days": 3}
CALL = FORMATS["hermes"].write("weather", ARGUMENTS)


@pytest.fixture
def played(checkpoint: Path) -> Make:
    """As usual, with room for tools in the prompt: a token is a byte."""

    def make(script: Script | None = None, **options: Any) -> Played:
        return Played(checkpoint, script or says("hello"), max_model_len=4096, **options)

    return make


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template that knows tools."""
    path = tmp_path / "template.jinja"
    path.write_text(CHAT_TEMPLATE)
    return path


def with_template(text: str, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "other.jinja"
    path.write_text(text)
    return {"chat_template": path}


def chat(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"messages": HI, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def choice(server: Played, **body: Any) -> dict[str, Any]:
    (one,) = chat(server, **body)["choices"]
    return dict(one)


def prompt(server: Played, **body: Any) -> str:
    """The text that the model gets."""
    chat(server, **body)
    shown = server.ask("/detokenize", {"tokens": server.host.requests[0].prompt_token_ids})
    text: str = shown.json()["prompt"]
    return text


def refused(server: Played, **body: Any) -> dict[str, Any]:
    response = server.ask(URL, {"messages": HI, **body})
    assert response.status_code == 400, response.text
    assert server.host.requests == []
    error: dict[str, Any] = response.json()["error"]
    return error


def gather(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """What a client makes of a stream."""
    out: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish": None, "logprobs": []}
    for one in (one for chunk in chunks for one in chunk["choices"] if one["index"] == index):
        delta = one["delta"]
        assert out["finish"] is None, "something came after the finish"
        out["content"] += delta.get("content", "")
        out["reasoning"] += delta.get("reasoning_content", "")
        out["logprobs"] += (one["logprobs"] or {"content": []})["content"]
        out["finish"] = one["finish_reason"]
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(out["calls"])
                assert call["type"] == "function"
                assert call["function"]["arguments"] == ""
                out["calls"].append([call["function"]["name"], ""])
            else:
                assert set(call) == {"index", "function"}
                out["calls"][call["index"]][1] += call["function"]["arguments"]
    return out


def test_a_call_has_openai_shape(played: Make, template: Path) -> None:
    one = choice(played(says(CALL), settings={"chat_template": template}), tools=[TOOL])
    assert one["finish_reason"] == "tool_calls"
    assert one["message"]["content"] is None
    (call,) = one["message"]["tool_calls"]
    assert set(call) == {"id", "type", "function"}
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS


@pytest.mark.parametrize("name", list(FORMATS))
def test_calls_in_every_format_streamed_and_whole(played: Make, name: str) -> None:
    form = FORMATS[name]
    text = f"Let me see.\n{form.write('weather', ARGUMENTS)}\n{form.write('now', {})}"
    server = played(says(text), settings={"tool_call_parser": name})
    body = {"messages": HI, "tools": [TOOL, OTHER]}
    message = choice(server, **body)["message"]
    streamed = gather(server.stream(URL, body))
    assert message["content"] == streamed["content"] == "Let me see."
    calls = [[call["function"]["name"], call["function"]["arguments"]] for call in message["tool_calls"]]
    assert calls == streamed["calls"]
    assert [json.loads(arguments) for _, arguments in calls] == [ARGUMENTS, {}]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert streamed["finish"] == "tool_calls"


def test_arguments_are_streamed_before_the_call_ends(played: Make, template: Path) -> None:
    chunks = played(says(CALL), settings={"chat_template": template}).stream(
        URL, {"messages": HI, "tools": [TOOL]}
    )
    pieces = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert len(pieces) > 10
    assert "id" in pieces[0]


def test_without_tools_a_call_is_text(played: Make) -> None:
    for body in ({}, {"tools": []}, {"tools": None}, {"tools": [TOOL], "tool_choice": "none"}):
        one = choice(played(says(CALL)), **body)
        assert (one["message"]["content"], one["finish_reason"]) == (CALL, "stop"), body
        assert "tool_calls" not in one["message"]


def test_a_broken_call_is_text(played: Make) -> None:
    for text in ("<tool_call>\nnope\n</tool_call>", "a <tool_call>", '<tool_call>{"name": "weather"'):
        one = choice(played(says(text)), tools=[TOOL])
        assert (one["message"]["content"], one["finish_reason"]) == (text, "stop")


def test_a_call_cut_by_length(played: Make) -> None:
    one = choice(played(says(CALL)), tools=[TOOL], max_tokens=len(tokens(CALL)) - 30)
    assert one["finish_reason"] == "length"
    (call,) = one["message"]["tool_calls"]
    assert json.dumps(ARGUMENTS, ensure_ascii=False).startswith(call["function"]["arguments"])


def test_a_stop_string_within_a_call(played: Make) -> None:
    one = choice(played(says(CALL)), tools=[TOOL], stop=["days"])
    assert (one["finish_reason"], one["stop_reason"]) == ("stop", "days")
    assert one["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Köln\\n", "'


def test_one_call_at_most_ends_the_engines_work(played: Make) -> None:
    script = hangs(f"{CALL}\n{CALL}")
    server = played(script)
    body = {"messages": HI, "tools": [TOOL], "parallel_tool_calls": False, "n": 2}
    answer = chat(server, **body)
    for one in answer["choices"]:
        assert (len(one["message"]["tool_calls"]), one["finish_reason"]) == (1, "tool_calls")
    assert len(server.host.aborted) == 2
    assert answer["usage"]["completion_tokens"] < 2 * len(tokens(CALL))
    server = played(script)
    chunks = server.stream(URL, body)
    assert [gather(chunks, index)["finish"] for index in (0, 1)] == ["tool_calls"] * 2


def test_a_stopped_choice_is_no_abort_in_the_metrics(played: Make) -> None:
    server = played(hangs(CALL))

    async def main(app: Any, state: Any) -> dict[str, float]:
        import httpx  # noqa: PLC0415

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
            body = {"messages": HI, "tools": [TOOL], "parallel_tool_calls": False}
            assert (await client.post(URL, json=body)).status_code == 200
        name, registry = "loopserve_request_success_total", state.metrics.registry
        return {end: registry.get_sample_value(name, {"finished_reason": end}) for end in ("stop", "abort")}

    assert server.run(main) == {"stop": 1, "abort": 0}


def test_logprobs_of_calls_are_complete(played: Make) -> None:
    text = f"Hi {CALL}"
    body = {"messages": HI, "tools": [TOOL], "logprobs": True}
    whole = choice(played(says(text)), **body)["logprobs"]["content"]
    assert gather(played(says(text)).stream(URL, body))["logprobs"] == whole
    assert len(whole) == len(tokens(text)) + 1


def test_what_the_model_is_told(played: Make, template: Path) -> None:
    text = prompt(
        played(settings={"chat_template": template}),
        tools=[TOOL],
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Köln"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
        ],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert json.dumps(TOOL, ensure_ascii=False) in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>' in text
    assert "<tool_response>\nrain\n</tool_response>" in text


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_template_without_tools_is_helped(played: Make, name: str) -> None:
    form = FORMATS[name]
    calls = [{"id": "c", "function": {"name": "weather", "arguments": '{"days": 1}'}}] * 2
    text = prompt(
        played(settings={"tool_call_parser": name}),
        tools=[TOOL],
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Hm.", "tool_calls": calls},
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": "sun"},
        ],
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert json.dumps(TOOL, ensure_ascii=False) in text
    call = form.write("weather", {"days": 1})
    assert f"<|im_start|>assistant\nHm.\n{call}\n{call}<|im_end|>" in text
    results = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    assert f"<|im_start|>user\n{results}<|im_end|>" in text
    assert text.count("<|im_start|>system") == 1


def test_arguments_that_are_no_object_reach_the_template_as_text(played: Make, template: Path) -> None:
    for arguments in ("[1]", "{broken", "", "[" * 100_000):
        calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        messages = [*HI, {"role": "assistant", "tool_calls": calls}]
        response = played(settings={"chat_template": template}).ask("/tokenize", {"messages": messages})
        assert response.status_code == 200


def test_tokenize_renders_the_same_prompt(played: Make, template: Path) -> None:
    server = played(settings={"chat_template": template})
    for body in (
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"chat_template_kwargs": {"x": 1}},
        {"messages": [*HI, {"role": "assistant", "content": "so"}], "continue_final_message": True},
    ):
        chat(server, **body)
        ids = server.host.requests[0].prompt_token_ids
        assert server.ask("/tokenize", {"messages": HI, **body}).json()["tokens"] == ids


@pytest.mark.parametrize(
    ("choosing", "functions"),
    [("required", {"weather", "now"}), ({"type": "function", "function": {"name": "now"}}, {"now"})],
)
def test_forced_calls_are_constrained(played: Make, choosing: Any, functions: set[str]) -> None:
    server = played(says(FORMATS["hermes"].write("now", {})))
    one = choice(server, tools=[TOOL, OTHER], tool_choice=choosing)
    assert one["finish_reason"] == "tool_calls"
    grammar = server.host.requests[0].params.grammar
    assert grammar is not None
    assert {
        name for name in ("weather", "now") if f'name\\\\\\": \\\\\\"{name}' in json.dumps(grammar)
    } == functions


def test_auto_is_not_constrained(played: Make) -> None:
    for body in ({"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "auto"}):
        server = played()
        chat(server, **body)
        assert server.host.requests[0].params.grammar is None


FORMAT = {"type": "json_object"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [7]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 129}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": 7}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "description": 7}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools",
        ),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 7}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": FORMAT}, "response_format"),
        ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 1025}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": 10**30}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {f"a{i}": 1 for i in range(33)}}, "chat_template_kwargs"),
        ({"reasoning_effort": 7}, "reasoning_effort"),
        ({"reasoning_effort": "x" * 10_000}, "reasoning_effort"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "messages": [*HI, {"role": "assistant", "content": ""}]},
            "continue_final_message",
        ),
    ],
)
def test_what_is_refused(played: Make, body: dict[str, Any], param: str) -> None:
    error = refused(played(), **body)
    assert error["param"] == param
    assert len(error["message"]) < 400


def nested(depth: int) -> Any:
    schema: Any = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "parameters", [nested(200), {"enum": list(range(100_000))}, {"type": "object", "a": [[[]] * 11000] * 2}]
)
def test_schemas_that_are_too_large(played: Make, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert refused(played(), tools=[tool])["param"] == "tools"


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/Missing"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string", "minLength": -5, "maxLength": 10**9}}},
    ],
)
@pytest.mark.parametrize("name", list(FORMATS))
def test_schemas_that_cant_be_enforced_are_400_or_fine(played: Make, name: str, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    server = played(settings={"tool_call_parser": name})
    response = server.ask(URL, {"messages": HI, "tools": [tool], "tool_choice": "required"})
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert response.json()["error"]["param"] == "tools"
    assert server.ask(URL, {"messages": HI, "tools": [tool]}).status_code == 200


CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "content"),
        ({"role": "user", "content": "x", "tool_calls": [CALLED]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [7]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{**CALLED, "type": "custom"}]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{**CALLED, "id": 7}]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{**CALLED, "id": "x" * 999}]}, "tool_calls"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]},
            "tool_calls",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": ""}}]}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [CALLED] * 129}, "tool_calls"),
        (
            {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ""}},
            "function_call",
        ),
        ({"role": "tool", "content": None}, "content"),
        ({"role": "tool", "content": "x", "tool_call_id": 7}, "tool_call_id"),
        ({"role": "assistant", "content": "", "reasoning_content": {}}, "reasoning_content"),
    ],
)
def test_messages_that_are_refused(played: Make, message: dict[str, Any], where: str) -> None:
    assert refused(played(), messages=[*HI, message])["param"] == f"messages.1.{where}"


def test_what_clients_send_back_from_openai_objects_is_accepted(played: Make) -> None:
    dumped = {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None}
    messages = [
        *HI,
        {**dumped, "function_call": None, "tool_calls": [CALLED]},
        {"role": "tool", "content": "x"},
    ]
    assert chat(played(), messages=messages)


def test_a_server_that_knows_no_format_refuses_tools(played: Make, tmp_path: Path) -> None:
    foreign = with_template("[TOOLS]{{ tools }}{{ messages[0].content }}", tmp_path)
    for settings in (foreign, {"tool_call_parser": "none"}):
        error = refused(played(settings=settings), tools=[TOOL])
        assert error["param"] == "tools"
        assert "--tool-call-parser" in error["message"]
        assert choice(played(settings=settings))["message"]["content"] == "hello"


@pytest.fixture
def marked(checkpoint: Path, tmp_path: Path) -> Path:
    """A model whose marks are special tokens: 5, 6 the calls', 7 the end of reasoning."""
    copy = tmp_path / "marked"
    shutil.copytree(checkpoint, copy)
    text = (copy / "tokenizer.json").read_text()
    for old, new in (("prefix", "<tool_call>"), ("suffix", "</tool_call>"), ("middle", "</think>")):
        text = text.replace(f"<|fim_{old}|>", new)
    (copy / "tokenizer.json").write_text(text)
    return copy


def plays(*ids: int) -> Script:
    def play(request: Request) -> Iterable[RequestOutput]:
        for token in (*ids, EOS):
            end = token == EOS
            yield RequestOutput(
                request_id=request.request_id,
                token_ids=[token],
                logprobs=None if request.params.logprobs is None else [logprob_of(token, 0)],
                finish_reason="stop" if end else None,
                stop_token_id=EOS if end else None,
            )

    return play


def test_marks_that_are_special_tokens_reach_the_parsers_only(marked: Path) -> None:
    script = plays(*tokens("hm"), 7, 5, *tokens('{"name": "now", "arguments": {}}'), 6)
    settings = {"reasoning_parser": "think"}
    with_tools = choice(Played(marked, script, settings=settings, max_model_len=4096), tools=[OTHER])[
        "message"
    ]
    assert with_tools["tool_calls"][0]["function"]["name"] == "now"
    plain = choice(Played(marked, script, settings={"reasoning_parser": "none"}))["message"]
    assert plain["content"] == 'hm{"name": "now", "arguments": {}}'


def test_forced_calls_name_special_tokens_by_id(marked: Path) -> None:
    server = Played(marked, plays(5, *tokens('{"name": "now", "arguments": {}}'), 6), max_model_len=4096)
    assert choice(server, tools=[OTHER], tool_choice="required")["finish_reason"] == "tool_calls"
    grammar = server.host.requests[0].params.grammar
    assert grammar is not None
    assert "<[5]>" in grammar


THINKING = (
    "{% for m in messages %}{{ m.role }}:{{ m.reasoning_content or '' }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:"
    "{% if thinking is not defined or thinking %}<think>\n{% endif %}{% endif %}"
)


def test_reasoning_that_the_prompt_opens(played: Make, tmp_path: Path) -> None:
    server = played(says("hm\n</think>\n\nanswer"), settings=with_template(THINKING, tmp_path))
    message = choice(server)["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "answer")
    streamed = gather(server.stream(URL, {"messages": HI}))
    assert (streamed["reasoning"], streamed["content"], streamed["finish"]) == ("hm", "answer", "stop")
    plain = choice(server, chat_template_kwargs={"thinking": False})["message"]
    assert plain["content"] == "hm\n</think>\n\nanswer"
    assert "reasoning_content" not in plain


def test_reasoning_goes_back_to_the_template(played: Make, tmp_path: Path) -> None:
    server = played(settings=with_template(THINKING, tmp_path))
    for key in ("reasoning", "reasoning_content"):
        text = prompt(server, messages=[*HI, {"role": "assistant", "content": "a", key: "because"}])
        assert "assistant:because:a\n" in text


def test_reasoning_then_a_call(played: Make, tmp_path: Path) -> None:
    settings = with_template(THINKING, tmp_path)
    text = "<tool_call> maybe\n</think>\n\n" + CALL
    body = {"messages": HI, "tools": [TOOL], "logprobs": True}
    one = choice(played(says(text), settings=settings), **body)
    assert one["message"]["reasoning_content"] == "<tool_call> maybe"
    assert one["message"]["content"] is None
    assert len(one["message"]["tool_calls"]) == 1
    assert len(one["logprobs"]["content"]) == len(tokens(text)) + 1
    streamed = gather(played(says(text), settings=settings).stream(URL, body))
    assert len(streamed["logprobs"]) == len(tokens(text)) + 1


def test_a_forced_call_may_think_first(played: Make, tmp_path: Path) -> None:
    server = played(says("hm</think>\n\n" + CALL), settings=with_template(THINKING, tmp_path))
    one = choice(server, tools=[TOOL], tool_choice="required")
    assert (one["message"]["reasoning_content"], one["finish_reason"]) == ("hm", "tool_calls")
    grammar = server.host.requests[0].params.grammar
    assert grammar is not None
    assert "</think>" in grammar


def test_a_constrained_answer_is_content(played: Make, tmp_path: Path) -> None:
    server = played(says('{"a": 1}'), settings=with_template(THINKING, tmp_path))
    message = choice(server, response_format=FORMAT)["message"]
    assert message["content"] == '{"a": 1}'
    assert "reasoning_content" not in message


def test_the_reasoning_parser_can_be_forced_or_forbidden(played: Make, tmp_path: Path) -> None:
    text = "<think>hm</think>answer"
    assert choice(played(says(text)))["message"]["content"] == text
    message = choice(played(says(text), settings={"reasoning_parser": "think"}))["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "answer")
    settings = {**with_template(THINKING, tmp_path), "reasoning_parser": "none"}
    assert choice(played(says(text), settings=settings))["message"]["content"] == text


def test_options_reach_the_template(played: Make, tmp_path: Path) -> None:
    server = played(
        settings=with_template("{{ mode }} {{ reasoning_effort }} {{ messages[0].content }}", tmp_path)
    )
    assert prompt(server, chat_template_kwargs={"mode": "fast"}, reasoning_effort="low") == "fast low hi"


def test_the_final_message_is_continued(played: Make, template: Path) -> None:
    server = played(settings={"chat_template": template})
    messages = [*HI, {"role": "assistant", "content": "def f():\n"}]
    text = prompt(server, messages=messages, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\ndef f():")


@pytest.mark.parametrize("begun", ["<", "|", "im_end", "m", ">"])
def test_the_final_message_may_look_like_what_the_template_puts_after_it(
    played: Make, template: Path, begun: str
) -> None:
    server = played(settings={"chat_template": template})
    messages = [*HI, {"role": "assistant", "content": begun}]
    assert prompt(server, messages=messages, continue_final_message=True).endswith(
        f"<|im_start|>assistant\n{begun}"
    )
