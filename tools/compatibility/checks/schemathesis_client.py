"""schemathesis: requests made from our own schema, and from OpenAI's, which llm-comply carries, cut to our paths."""

import importlib.resources
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checking import API, KEY, URL, feature, main, request, require

OPENAI_PATHS = ("/completions", "/chat/completions", "/models", "/models/{model}")
# OpenAI documents success only, so other statuses say nothing; and it refuses what we may take.
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
OWN_CHECKS = f"{CHECKS},status_code_conformance,ignored_auth"
LIMITS = (
    *("--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--max-time", "150", "--seed", "1"),
    *("--request-timeout", "60", "--no-shrink", "--warnings", "off", "--suppress-health-check", "all"),
)


def fuzz(schema: dict[str, Any], url: str, checks: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "schema.json"
        file.write_text(json.dumps(schema), encoding="utf-8")
        command = [
            str(Path(sys.executable).with_name("st")),
            "run",
            str(file),
            "--url",
            url,
            "--checks",
            checks,
        ]
        done = subprocess.run(
            [*command, *LIMITS, "-H", f"Authorization: Bearer {KEY}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    sys.stdout.write(done.stdout)
    _, _, failures = done.stdout.partition("= FAILURES =")
    require(done.returncode == 0, (failures or done.stdout[-600:] or done.stderr[-600:]).strip(" =\n"))


@feature("own schema")
def own() -> None:
    fuzz(request("/openapi.json"), URL, OWN_CHECKS)


@feature("OpenAI's schema")
def of_openai() -> None:
    whole = json.loads(
        (importlib.resources.files("llm_comply") / "specs/openai_chat.json").read_text("utf-8")
    )
    paths = {path: whole["paths"][path] for path in OPENAI_PATHS}
    paths["/models/{model}"].pop("delete", None)
    paths["/chat/completions"].pop("get", None)
    fuzz({**whole, "paths": paths}, API, CHECKS)


if __name__ == "__main__":
    main("schemathesis")
