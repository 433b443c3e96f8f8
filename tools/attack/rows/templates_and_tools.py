"""Tools, messages and template payloads."""

from collections.abc import Iterator
from typing import Any

from tools.attack.case import BAD, CHAT, EITHER, GOOD, TOO_LARGE, Case, Row, crossed, values
from tools.attack.target import Dialect, Target

ONLY_CHAT = (CHAT,)


def _tool(name: Any, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


EMPTY = {"type": "object", "properties": {}}


def tools(target: Target) -> Iterator[Case]:
    lists: tuple[tuple[str, Any, frozenset[int]], ...] = (
        ("10,000 tools", [_tool(f"tool_{number}", EMPTY) for number in range(10_000)], BAD | TOO_LARGE),
        ("same name twice", [_tool("a", EMPTY)] * 2, EITHER),
        ("NUL in the name", [_tool("a\0b", EMPTY)], BAD),
        ("path as the name", [_tool("../../x", EMPTY)], EITHER),
        ("emoji as the name", [_tool("🎉", EMPTY)], BAD),
        ("1 MB name", [_tool("a" * 1_000_000, EMPTY)], BAD),
        ("empty name", [_tool("", EMPTY)], BAD),
        ("name is a number", [_tool(7, EMPTY)], BAD),
        ("parameters are text", [_tool("a", "x")], BAD),
        ("no parameters", [_tool("a", None)], EITHER),
        ("cyclic parameters", [_tool("a", {"$ref": "#"})], EITHER),
        ("remote parameters", [_tool("a", {"$ref": target.tripwire})], EITHER),
        ("unknown type", [{"type": "code_interpreter"}], BAD),
        ("not a list", {"a": 1}, BAD),
        ("list of text", ["a"], BAD),
        ("100,000 empty objects", [{}] * 100_000, BAD),
        (
            "1 MB description",
            [{"type": "function", "function": {"name": "a", "description": "x" * 10**6}}],
            TOO_LARGE,
        ),
    )
    for name, value, want in lists:
        yield from crossed(target, "H61", name, {"tools": value}, want, apis=ONLY_CHAT)
        if want is BAD and name != "unknown type":
            fields: dict[str, Any] = {"tools": value, "tool_choice": "required"}
            yield from crossed(target, "H61", f"{name}, required", fields, want, apis=ONLY_CHAT)


def tool_choices(target: Target) -> Iterator[Case]:
    tools = [_tool("a", EMPTY)]
    absent = {"type": "function", "function": {"name": "b"}}
    choices: tuple[Any, ...] = (
        absent,
        "always",
        7,
        {"type": "function"},
        {"type": "function", "function": {"name": 7}},
        [],
    )
    yield from values(target, "H63", "tool_choice", choices, apis=ONLY_CHAT, tools=tools)
    yield from values(target, "H63", "tool_choice", ["required", absent], apis=ONLY_CHAT)


PAYLOADS = (
    *(
        "{{7*7}}",
        "{% for i in range(99999999) %}x{% endfor %}",
        "{{''.__class__.__mro__}}",
        "{% include '/etc/passwd' %}",
    ),
    *(
        "{{ raise_exception('x') }}",
        "{%",
        "{{",
        "{# ",
        "${7*7}",
        "#{7*7}",
        "<%= 7*7 %>",
        "%s%n%x",
        "{0.__class__}",
    ),
)


def payloads(target: Target) -> Iterator[Case]:
    for text in PAYLOADS:
        messages = [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]
        yield from crossed(target, "H64", text[:24], {"messages": messages}, GOOD, apis=ONLY_CHAT)


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"


def client_templates(target: Target) -> Iterator[Case]:
    for template in (
        LOOP,
        "{{ 'a' * 1000000000 }}",
        "{{ cycler.__init__.__globals__ }}",
        "(" * 6000 + ")" * 6000,
    ):
        yield from values(target, "H65", "chat_template", [template], apis=ONLY_CHAT)
    options: tuple[dict[str, Any], ...] = (
        {"messages": [], "tokenize": True, "add_generation_prompt": False},
        {"chat_template": LOOP},
        {"tools": [{}] * 10_000},
        {"a" * 100_000: 1},
    )
    yield from values(target, "H65", "chat_template_kwargs", options, EITHER, apis=ONLY_CHAT)


def messages(target: Target) -> Iterator[Case]:
    user = {"role": "user", "content": "hi"}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}
    for name, value, want in (
        ("none", [], BAD),
        ("null", None, BAD),
        ("left out", ..., BAD),
        ("text", "hi", BAD),
        ("number", 7, BAD),
        ("list of lists", [[]] * 100, BAD),
        ("empty object", [{}], BAD),
        ("unknown role", [{"role": "wizard", "content": "a"}], BAD),
        ("role of 1 MB", [{"role": "x" * 1_000_000, "content": "a"}], BAD),
        ("role is a number", [{"role": 7, "content": "a"}], BAD),
        ("content is a number", [{"role": "user", "content": 7}], BAD),
        ("content of an object", [{"role": "user", "content": {"a": 1}}], BAD),
        ("null content", [{"role": "user", "content": None}], EITHER),
        ("nothing but nulls", [{"role": "assistant", "content": None}] * 3, EITHER),
        ("tool without id", [user, {"role": "tool", "content": "a"}], EITHER),
        ("broken arguments", [user, {"role": "assistant", "tool_calls": [call]}, user], EITHER),
        ("calls of text", [user, {"role": "assistant", "tool_calls": "x"}], BAD),
        ("5,000 messages", [user] * 5000, BAD),
        ("100,000 empty parts", [{"role": "user", "content": [{}] * 100_000}], BAD),
        ("name of 1 MB", [{**user, "name": "x" * 1_000_000}], BAD),
        ("unknown part", [{"role": "user", "content": [{"type": "x"}]}], BAD),
    ):
        yield from crossed(target, "H66", name, {"messages": value}, want, apis=ONLY_CHAT)


OWN = frozenset({Dialect.LOOPSERVE})


def loops(target: Target) -> Iterator[Case]:
    return values(target, "H71", "loops", [0, -1, 10**9, 1.5, True, "2", [1], {"a": 1}, 2**64])


ROWS = (
    Row("H61", "tools: 10,000, odd names, parameters of other types", tools),
    Row("H63", "`tool_choice` of what is not there", tool_choices),
    Row("H64", "template payloads in content are plain text", payloads),
    Row("H65", "templates sent by the client", client_templates),
    Row("H66", "messages of other shapes", messages),
    Row("H71", "`loops` out of bounds", loops, OWN),
)
