"""Tells a model about tools whose chat template knows nothing of them.

Tools go into the system message, calls and results of earlier turns into plain text, in the model's tool-call format.
"""

import json
from collections.abc import Sequence
from typing import Any

from server.openai.tool_parsers.formats import ToolFormat
from server.openai.tools import Tool


def plain_turns(
    turns: Sequence[dict[str, Any]], tools: Sequence[Tool], tool_format: ToolFormat
) -> list[dict[str, Any]]:
    """The same conversation in turns of system, user and assistant that hold nothing but text."""
    out: list[dict[str, Any]] = []
    results: list[str] = []

    def flush() -> None:
        if results:
            out.append({"role": "user", "content": "\n".join(results)})
            results.clear()

    for turn in turns:
        if turn["role"] == "tool":
            results.append(f"<tool_response>\n{turn['content']}\n</tool_response>")
            continue
        flush()
        calls = [_write(call["function"], tool_format) for call in turn.get("tool_calls", ())]
        text = "\n".join([*([turn["content"]] if turn["content"] or not calls else []), *calls])
        out.append({**{key: turn[key] for key in turn if key != "tool_calls"}, "content": text})
    flush()
    if tools:
        has_system = bool(out) and out[0]["role"] == "system"
        system = [out.pop(0)["content"]] if has_system else []
        out.insert(
            0, {"role": "system", "content": "\n\n".join([*system, _instructions(tools, tool_format)])}
        )
    return out


def _write(function: dict[str, Any], tool_format: ToolFormat) -> str:
    arguments = function["arguments"]
    return tool_format.write(function["name"], arguments if isinstance(arguments, dict) else {"": arguments})


def _instructions(tools: Sequence[Tool], tool_format: ToolFormat) -> str:
    signatures = [json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools]
    example = tool_format.write("FUNCTION_NAME", {"ARGUMENT_NAME": "value"})
    return "\n".join(
        [
            "# Tools",
            "",
            "You may call functions. Their signatures are within <tools></tools>:",
            "<tools>",
            *signatures,
            "</tools>",
            "",
            "To call a function, answer in exactly this form, once per call:",
            example,
        ]
    )
