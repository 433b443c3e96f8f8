"""Which clients there are, what each is asked to do and what it needs."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

CHECKS = Path(__file__).parent / "checks"

FEATURES = (
    *("completion", "chat", "stream", "usage in stream", "logprobs", "echo logprobs", "n", "stop"),
    *("tools", "tools streamed", "json_schema", "auth error", "context overflow", "unknown model"),
    *("FIM", "models list", "tokenize", "responses", "messages", "cancel"),
    *("own schema", "OpenAI's schema", "images", "model required"),
)
"""What is checked, in the order of the page; the names mean the same for every client."""

_COMMON = (
    *("completion", "chat", "stream", "usage in stream", "logprobs", "n", "stop", "tools", "tools streamed"),
    *("json_schema", "auth error", "context overflow", "unknown model", "cancel"),
)


class Engine(StrEnum):
    """What stands behind the server that a client talks to."""

    DEMO = "the demo model"
    SHORT = "the demo model, 128 positions"
    SCRIPT = "a script"


@dataclass(frozen=True, slots=True)
class Client:
    """One client.

    Attributes:
        name: of its environment, its list of requirements and its row.
        title: how the page calls it.
        script: in `checks`, run by the environment's interpreter.
        features: what it exercises; the other cells of its row stay empty.
        heavy: left out of the test suite.
        servers: how many servers are started for it.
        known: features that fail for a reason that is not a defect, with the reason.
        seconds: time limit of the whole script.
    """

    name: str
    title: str
    script: str
    features: tuple[str, ...]
    heavy: bool = False
    engine: Engine = Engine.DEMO
    servers: int = 1
    known: tuple[tuple[str, str], ...] = ()
    seconds: float = 240.0

    @property
    def runs_on_node(self) -> bool:
        return self.script.endswith(".mjs")

    def command(self, environments: Path) -> list[str]:
        """How its script is started, without the features; `environments` must be absolute."""
        node = ["node"] if self.runs_on_node else [str(environments / self.name / "bin" / "python")]
        return [*node, str(CHECKS / self.script)]


CLIENTS = (
    Client(
        "openai-oldest",
        "openai-python 1",
        "openai_python.py",
        (*_COMMON, "echo logprobs", "FIM", "models list", "tokenize"),
    ),
    Client(
        "openai-newest",
        "openai-python 3",
        "openai_python.py",
        (*_COMMON, "echo logprobs", "FIM", "models list", "tokenize", "responses"),
    ),
    Client(
        "openai-node",
        "openai-node",
        "openai_node.mjs",
        (*_COMMON, "FIM", "models list", "tokenize", "responses"),
    ),
    Client("litellm", "LiteLLM", "litellm_client.py", (*_COMMON, "responses", "messages")),
    Client("langchain", "langchain-openai", "langchain_client.py", (*_COMMON, "responses")),
    Client("instructor", "instructor", "instructor_client.py", ("tools", "tools streamed", "json_schema")),
    Client(
        "pydantic-ai",
        "pydantic-ai",
        "pydantic_ai_client.py",
        ("chat", "stream", "tools", "json_schema", "responses", "auth error", "unknown model"),
    ),
    Client(
        "anthropic",
        "anthropic-python",
        "anthropic_client.py",
        (
            *(
                "stream",
                "usage in stream",
                "stop",
                "tools",
                "tools streamed",
                "auth error",
                "context overflow",
            ),
            *("unknown model", "models list", "tokenize", "messages", "cancel"),
        ),
    ),
    Client(
        "llm-comply",
        "llm-comply",
        "llm_comply_client.py",
        ("chat", "stream", "usage in stream", "tools", "responses", "messages", "images", "model required"),
        engine=Engine.SCRIPT,
        known=(
            ("images", "loopserve serves text; images are refused with a 400 that says so"),
            ("model required", "a server with one model answers a body that names none"),
        ),
    ),
    Client("continue", "Continue", "continue_client.mjs", ("chat", "FIM", "models list", "cancel")),
    Client(
        "lm-eval", "lm-eval", "lm_eval_client.py", ("echo logprobs", "completion", "tokenize"), heavy=True
    ),
    Client(
        "schemathesis",
        "schemathesis",
        "schemathesis_client.py",
        ("own schema", "OpenAI's schema"),
        heavy=True,
        engine=Engine.SHORT,
        seconds=400,
    ),
    Client("aider", "aider", "aider_client.py", ("chat", "stream"), heavy=True, engine=Engine.SCRIPT),
    Client(
        "vllm-router",
        "vllm-router",
        "vllm_router_client.py",
        ("completion", "stream", "context overflow", "cancel"),
        heavy=True,
        servers=2,
    ),
    Client(
        "guidellm", "guidellm", "guidellm_client.py", ("completion", "stream", "usage in stream"), heavy=True
    ),
)
