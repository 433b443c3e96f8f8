"""The trial compiler from the inside: `python -m server.grammar_worker`, started by `server.grammar_trial`.

Reads grammars from its input and answers each with what is wrong with it, empty for nothing. It may be killed at any
moment, and is not missed if a grammar takes it down. Never loads torch.
"""

import os
import struct
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from engine.child_process import die_with, leave_signals_to_parent, limit_memory
from engine.errors import InvalidRequestError
from engine.grammar import TRIAL_STACK_BYTES, Vocabulary, compile_grammar, make_vocabulary
from engine.tokenizer import Tokenizer

LENGTH = struct.Struct("<I")
"""Goes before every text, both ways."""
READY = ""
MEMORY_PER_TRIAL = 256 << 20
"""Address space that may be taken once the vocabulary is loaded."""


def main(arguments: list[str]) -> int:
    """Body of the process.

    Args:
        arguments: model directory, width of the embedding, end tokens by comma, process id of the parent.

    Returns:
        The exit code.
    """
    directory, size, end_ids, parent = arguments
    leave_signals_to_parent()
    die_with(int(parent))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    vocabulary = make_vocabulary(
        Tokenizer.load(Path(directory)), int(size), [int(i) for i in end_ids.split(",") if i]
    )
    compile_grammar(
        vocabulary, '{"grammars":[{"lark_grammar":"start: /a?/"}]}'
    )  # whatever is lazy is done now
    limit_memory(MEMORY_PER_TRIAL + TRIAL_STACK_BYTES)
    threading.stack_size(TRIAL_STACK_BYTES)
    serving = threading.Thread(target=_serve, args=(vocabulary, sys.stdin.buffer, answers))
    serving.start()
    serving.join()
    return 0


def _serve(vocabulary: Vocabulary, grammars: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    _write(answers, READY)
    while len(head := grammars.read(LENGTH.size)) == LENGTH.size:
        _write(answers, _problem(vocabulary, grammars.read(LENGTH.unpack(head)[0]).decode()))


def _problem(vocabulary: Vocabulary, grammar: str) -> str:
    try:
        compile_grammar(vocabulary, grammar)
    except InvalidRequestError as error:
        return str(error)
    return ""


def _write(answers: BinaryIO, text: str) -> None:
    data = text.encode()
    answers.write(LENGTH.pack(len(data)) + data)
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
