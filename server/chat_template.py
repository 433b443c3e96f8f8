"""The model's Jinja chat template, in a sandbox, compiled once.

Hugging Face templates expect `raise_exception`, `strftime_now`, loop controls and a `tojson` that doesn't escape HTML.
A template comes from the model or from whoever runs the server, never from a request.

It can't reach Python's objects, but it can loop. Every turn of a loop and every call of a macro looks at how much
processor time the rendering has taken, so a template that is slow on some conversation (many go through all messages
once per message) costs that request an answer and no other. What one expression does can't be interrupted; one that
goes too far on any conversation is found by `server.model_trial` at the start.
"""

import json
import threading
import time
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InvalidRequestError, TokenizerError
from engine.tokenizer import Tokenizer

RENDER_CPU_S = 5.0
MAX_PROMPT_CHARS = 64 << 20
MAX_INDENT = 16
MAX_ERROR_CHARS = 200
RESERVED = (
    *("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"),
    *("chat_template", "tokenize", "continue_final_message"),  # of the function that templates are known by
)

_PROBE = "a_function_that_is_only_a_probe"


class ChatTemplate:
    """A compiled template.

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
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(_interruptible(environment.parse(source)))
        except (
            Exception
        ) as error:  # it becomes Python code, which has limits of its own, such as nested blocks
            reason = " ".join(str(error).split())[:MAX_ERROR_CHARS] or type(error).__name__
            raise TokenizerError(f"The chat template doesn't compile: {reason}.") from None
        self.source = source
        self._environment = environment
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
            TemplateLimitError: it takes too long on these messages or makes too much of them.
            InvalidRequestError: the template refuses these messages or fails on them.
        """
        names = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": tools}
        self._environment.begin()
        parts, length = [], 0
        try:
            for part in self._template.generate({**(options or {}), **names, **self._special}):
                parts.append(part)
                length += len(part)
                if length > MAX_PROMPT_CHARS:
                    raise TemplateLimitError(
                        f"The chat template makes more than {MAX_PROMPT_CHARS} characters of these messages.",
                        param="messages",
                    )
            return "".join(parts)
        except TemplateLimitError:
            raise
        except MemoryError:
            raise TemplateLimitError(
                "The chat template takes too much memory for these messages.", param="messages"
            ) from None
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


class TemplateLimitError(InvalidRequestError):
    """Rendering took too long or made too much."""


def template_of(tokenizer: Tokenizer, source: str | None) -> ChatTemplate | None:
    """A model's compiled template, or None if it has none.

    Args:
        source: Jinja text instead of the model's own, or None.

    Raises:
        TokenizerError: it doesn't compile.
    """
    chosen = tokenizer.chat_template if source is None else source
    if chosen is None:
        return None
    ids = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
    return ChatTemplate(
        chosen, {name: "" if i is None else tokenizer.token_text(i) for name, i in ids.items()}
    )


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a clock per thread."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = threading.local()

    def begin(self) -> None:
        """This thread starts rendering."""
        self._local.deadline = time.thread_time() + RENDER_CPU_S

    @property
    def interruption(self) -> None:
        """Evaluated by the compiled template at every turn of a loop.

        Raises:
            TemplateLimitError: time is up.
        """
        if time.thread_time() > self._local.deadline:
            raise TemplateLimitError(
                f"The chat template takes more than {RENDER_CPU_S:g} s for these messages.", param="messages"
            )


def _interruptible(template: nodes.Template) -> nodes.Template:
    """The same template, which looks at the clock at every turn of a loop and in every call of a macro."""
    repeated: Any = template.find_all((nodes.For, nodes.Macro, nodes.CallBlock))
    for node in repeated:
        look = nodes.EnvironmentAttribute("interruption", lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(look, lineno=node.lineno))
    return template


def _refused(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"The chat template can't render these messages: {reason}.", param="messages")


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    if indent is not None and indent > MAX_INDENT:
        raise jinja2.TemplateError(f"tojson's indent may be at most {MAX_INDENT}")
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
