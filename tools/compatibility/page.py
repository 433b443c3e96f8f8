"""docs/compatibility.md from one run."""

from collections.abc import Sequence

from benchmarks.cells import Cells
from tools.compatibility.catalogue import FEATURES
from tools.compatibility.running import Outcome, Row

INTRODUCTION = """# Compatibility

    make compatibility

Each client is installed into an environment of its own and talks over HTTP to a real `loopserve serve models/demo` with
an API key; a script per client (`tools/compatibility/checks`) uses it the way its users do. **yes**: every check of the
feature passed. **no**: one failed; why stands below. Empty: the client has no such thing, or it is not exercised.

llm-comply and aider talk to the same server over an engine that plays a script, since they need an answer that makes
sense; schemathesis to one with a context of 128 positions. tests/clients runs all clients but the last few, which take
minutes (lm-eval and after).
"""

MEANINGS = """
## What the features are

* *logprobs*: of completions and chats, with bytes; *echo logprobs*: a prompt's own, for token ids.
* *tools*: required and named calls whose arguments obey the schema, and a call's result sent back; *tools streamed*:
  the arguments in parts. *json_schema*: the answer obeys the schema, streamed too where the client can.
* *auth error*, *context overflow*, *unknown model*: the client raises its own exception for that case.
* *FIM*: a suffix in `/v1/completions`, or `/v1/fim/completions`.
* *responses*: `/v1/responses`; *messages*: `/v1/messages`. *tokenize*: `/tokenize`, or counting tokens.
* *own schema*: `/openapi.json` says what the server really answers, whatever is sent; *OpenAI's schema*: neither does a
  request made from it break the server, nor is an answer of another shape.
* *cancel*: a client that leaves in the middle of a stream frees its request (`loopserve_num_requests_running` → 0).
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page, in Markdown."""
    return "\n".join([INTRODUCTION, _table(outcomes).markdown(), _failures(outcomes), MEANINGS])


def _table(outcomes: Sequence[Outcome]) -> Cells:
    rows = []
    for one in outcomes:
        found = {row.feature: row for row in one.rows}
        rows.append([one.client.title, one.version, *(_cell(found.get(feature)) for feature in FEATURES)])
    return Cells("Clients", ["client", "version", *FEATURES], rows)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return "yes" if row.passed else "**no**"


def _failures(outcomes: Sequence[Outcome]) -> str:
    lines = ["\n## What does not work\n"]
    for one in outcomes:
        reasons = dict(one.client.known)
        for row in one.rows:
            if not row.passed:
                why = reasons.get(row.feature) or row.detail.replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"* {one.client.title}, {row.feature}: {why}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "Nothing of the above."])
