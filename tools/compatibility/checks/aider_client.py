"""aider edits a file in a repository of its own; the model behind the server is a script that gives the edit."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checking import API, KEY, MODEL, equal, feature, main, require

BEFORE = "def add(a, b):\n    return a - b\n"
AFTER = "def add(a, b):\n    return a + b\n"
OPTIONS = (
    *("--yes-always", "--no-pretty", "--no-analytics", "--no-check-update", "--no-show-model-warnings"),
    *(
        "--no-detect-urls",
        "--no-fancy-input",
        "--no-show-release-notes",
        "--no-gitignore",
        "--map-tokens",
        "0",
    ),
    *("--edit-format", "diff", "--message", "add subtracts; it should add."),
)


def edit(*options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "HOME": folder,
            "OPENAI_API_BASE": API,
            "OPENAI_API_KEY": KEY,
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@localhost",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@localhost",
        }
        repository = Path(folder) / "repository"
        repository.mkdir()
        file = repository / "adding.py"
        file.write_text(BEFORE, encoding="utf-8")
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "before"]):
            subprocess.run(["git", *command], cwd=repository, env=environment, check=True)
        aider = [sys.executable, "-m", "aider", "--model", f"openai/{MODEL}", *OPTIONS, *options, file.name]
        done = subprocess.run(
            aider, cwd=repository, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        require(file.read_text(encoding="utf-8") == AFTER, f"the file was not edited: {done.stdout[-400:]}")
        log = subprocess.run(
            ["git", "log", "--oneline"],
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        equal(len(log.stdout.splitlines()), 2, "commits")


@feature("chat")
def whole() -> None:
    edit("--no-stream")


@feature("stream")
def streamed() -> None:
    edit("--stream")


if __name__ == "__main__":
    main("aider-chat")
