"""The model's trial from the inside: `python -m server.model_trial_worker`, started by `server.model_trial`.

Says what it is about to do before it does it, then that all went well or what didn't. Never loads torch.
"""

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from engine.child_process import die_with, leave_signals_to_parent, limit_memory
from engine.errors import InvalidRequestError, LoopserveError, TokenizerError
from engine.tokenizer import Tokenizer
from server.chat_template import ChatTemplate, TemplateLimitError, template_of

STAGE, PROBLEM, OK = "stage ", "problem ", "ok"
MEMORY_BYTES = 2 << 30
"""Address space beyond the interpreter's. A tokenizer.json of 28 MB takes 460 MiB."""

TEXTS = (
    "def f(x):\n\treturn {'a': 1.5e-3}  # Größe, 漢字, 🙂\u200d\r\n<|endoftext|></s>\x00",
    *("a" * 2000, "A1" * 1000, " " * 2000, "\n" * 1000, "7" * 2000, "-" * 2000, "é" * 1000, "\ufffd" * 500),
)
_USER, _ASSISTANT = {"role": "user", "content": "hello " * 100}, {"role": "assistant", "content": "hi"}
_TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [_USER],
    [{"role": "system", "content": "Be brief."}, *[_USER, _ASSISTANT] * 20, _USER],
)


def main(arguments: list[str]) -> int:
    """Body of the process.

    Args:
        arguments: model directory and process id of the parent. Its input is a template's text in JSON, or null.

    Returns:
        The exit code.
    """
    directory, parent = arguments
    leave_signals_to_parent()
    die_with(int(parent))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    template = json.loads(sys.stdin.buffer.read())
    limit_memory(MEMORY_BYTES)
    try:
        _try(Path(directory), template, answers)
    except LoopserveError as error:
        answers.write(f"{PROBLEM}{' '.join(str(error).split())}\n")
        return 1
    answers.write(f"{OK}\n")
    return 0


def _try(directory: Path, template: str | None, answers: TextIO) -> None:
    answers.write(f"{STAGE}the tokenizer\n")
    tokenizer = Tokenizer.load(directory)
    for text in TEXTS:
        for parse_special in (True, False):
            tokenizer.decode(tokenizer.encode(text, True, parse_special))
    answers.write(f"{STAGE}the chat template\n")
    compiled = template_of(tokenizer, template)
    if compiled is not None:
        render_all(compiled)


def render_all(template: ChatTemplate) -> None:
    """Render the conversations. Raises `TokenizerError` if one takes too long or makes too much."""
    for conversation in CONVERSATIONS:
        for tools in (None, [_TOOL]):
            try:
                template.render(conversation, True, tools)
            except TemplateLimitError as error:
                raise TokenizerError(f"{error} This model is refused.") from None
            except InvalidRequestError:
                pass  # it may want other conversations than these


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
