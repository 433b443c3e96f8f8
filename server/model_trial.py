"""Tries a model's tokenizer and chat template at the start, in a process that can be killed.

Both are programs of a kind: regexes, normalisers, Jinja. One that hangs, takes all memory or brings the process down
is found here, and the start is refused with one line. It costs a start about 0.2 s and a second reading of the
tokenizer. The limits hold for what is tried, texts and conversations of no particular kind; they are no promise about
every text.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from engine.child_process import import_path
from engine.errors import TokenizerError
from server.model_trial_worker import MEMORY_BYTES, OK, PROBLEM, STAGE

logger = logging.getLogger(__name__)

WORKER_MODULE = "server.model_trial_worker"
TIMEOUT_S = 60.0
_MAX_LOGGED = 2000


def try_model(model_dir: Path, template: str | None, timeout: float = TIMEOUT_S) -> None:
    """Load the tokenizer, encode texts, compile the template and render conversations, elsewhere.

    Args:
        template: Jinja text instead of the model's own, or None.
        timeout: wall seconds for all of it.

    Raises:
        TokenizerError: it fails, takes too long or too much memory, or kills its process.
    """
    command = [sys.executable, "-P", "-m", WORKER_MODULE, str(model_dir), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": import_path(), "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(template).encode(),
            capture_output=True,  # a library's panic would hide the one line that counts
            env=environment,
            timeout=timeout,
            process_group=0,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        doing = _last_stage(expired.output or b"")
        raise TokenizerError(f"Trying {doing} took more than {timeout:g} s; this model is refused.") from None
    except OSError as error:
        raise TokenizerError(
            f"Can't start a process to try the model's tokenizer: {error.strerror}."
        ) from None
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode == 0 and lines[-1:] == [OK]:
        return
    logger.debug("the model's trial: %s", done.stderr[-_MAX_LOGGED:].decode(errors="replace"))
    if lines and lines[-1].startswith(PROBLEM):
        raise TokenizerError(lines[-1].removeprefix(PROBLEM))
    raise TokenizerError(
        f"Trying {_last_stage(done.stdout)} ended its process, as happens when more than "
        f"{MEMORY_BYTES >> 20} MiB are taken; this model is refused."
    )


def _last_stage(output: bytes) -> str:
    stages = [line for line in output.decode(errors="replace").splitlines() if line.startswith(STAGE)]
    return stages[-1].removeprefix(STAGE) if stages else "the tokenizer"
