"""The model's Jinja chat template, in a sandbox, compiled once.

Hugging Face templates expect `raise_exception`, `strftime_now`, loop controls and a `tojson` that doesn't escape HTML.
A template comes from the model or from whoever runs the server, never from a request.
"""

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InvalidRequestError, TokenizerError

MAX_ERROR_CHARS = 200
RESERVED = (
    *("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"),
    *("chat_template", "tokenize", "continue_final_message"),  # of the function that templates are known by
)

_PROBE = "a_function_that_is_only_a_probe"


class ChatTemplate:
    """A compiled template.

    Attributes:
        source: Jinja text.

    Args:
        source: Jinja text.
        special: names a template may use, such as ``bos_token``.

    Attributes:
        source: Jinja text.
        reserved: names that a request can't set.

    Raises:
        TokenizerError: if it doesn't compile.
    """

    def __init__(self, source: str, special: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            reason = " ".join(str(error).split())[:MAX_ERROR_CHARS]
            raise TokenizerError(f"The chat template doesn't compile: {reason}.") from None
        self.source = source
        self.reserved = frozenset([*special, *RESERVED])
        self._special = special

    def render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`.

        Args:
            tools: as OpenAI's API writes them; None for none.
            options: more names for the template, none of them in `reserved`.

        Raises:
            InvalidRequestError: the template refuses these messages or fails on them.
        """
        try:
            return self._template.render(
                **(options or {}),
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=tools,
                **self._special,
            )
        except jinja2.TemplateError as error:
            raise _refused(" ".join(str(error).split())[:MAX_ERROR_CHARS]) from None
        except Exception as error:  # a template is code: it can fail in any way, and only for these messages
            raise _refused(type(error).__name__) from None

    def renders_tools(self) -> bool:
        """Whether the template tells the model about tools, found by rendering one."""
        function = {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}}
        try:
            text = self.render(
                [{"role": "user", "content": ""}], True, [{"type": "function", "function": function}]
            )
        except InvalidRequestError:
            return False
        return _PROBE in text


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"The chat template can't render these messages: {reason}.", param="messages")


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
