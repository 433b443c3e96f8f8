"""The server under attack, as far as a client can know it."""

import asyncio
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from tools.attack.wire import Answer, Exchange, Manners, Outcome, Piece, exchange

DEFAULT_CONTEXT = 2048


class AttackError(Exception):
    """The attack can't go on; the text says why and what to do."""


class Dialect(StrEnum):
    """Whose API it is beside OpenAI's."""

    LOOPSERVE = "loopserve"
    LLAMA_CPP = "llama.cpp"
    VLLM = "vLLM"
    OTHER = "other"


HEALTH = {Dialect.OTHER: "/v1/models"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is and what it serves.

    Attributes:
        key: API key, or None if it wants none.
        vocab_size: width of the logits, or None if unknown; rows that need it are left out then.
        context: most tokens of prompt and answer.
        routes: (method, path) of what the server says it has; empty if it doesn't say.
        tripwire: address that nothing should ever fetch.
    """

    name: str
    host: str
    port: int
    dialect: Dialect = Dialect.OTHER
    version: str = ""
    model: str = ""
    key: str | None = None
    vocab_size: int | None = None
    context: int = DEFAULT_CONTEXT
    routes: tuple[tuple[str, str], ...] = ()
    tripwire: str = "http://127.0.0.1:9/tripwire"

    @property
    def health(self) -> str:
        return HEALTH.get(self.dialect, "/health")

    @property
    def ours(self) -> bool:
        return self.dialect is Dialect.LOOPSERVE

    def headers(self, **more: str | None) -> list[tuple[str, str]]:
        """A well-behaved client's headers; `more` adds, replaces or (None) drops some, `_` standing for `-`."""
        values: dict[str, str | None] = {"Host": f"{self.host}:{self.port}", "Accept": "*/*"}
        if self.key is not None:
            values["Authorization"] = f"Bearer {self.key}"
        values |= {name.replace("_", "-"): value for name, value in more.items()}
        return [(name, value) for name, value in values.items() if value is not None]

    def get(self, path: str, **headers: str | None) -> bytes:
        """A request without a body."""
        return head("GET", path, self.headers(**headers))

    def post(self, path: str, body: bytes, **headers: str | None) -> bytes:
        """A request with a JSON body."""
        more = {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}
        return head("POST", path, self.headers(**more)) + body

    async def ask(self, request: bytes, seconds: float = 20.0) -> Exchange:
        """Send one request and wait for its answer."""
        return await exchange(self.host, self.port, [Piece(request)], Manners(deadline=seconds))

    async def json(self, path: str) -> Any:
        """A document of the server, or None if it has none there."""
        answer = whole_answer(await self.ask(self.get(path)))
        if answer is None or answer.status != 200:
            return None
        try:
            return json.loads(answer.body)
        except ValueError:
            return None


def head(method: str, path: str, headers: list[tuple[str, str]]) -> bytes:
    """A request's head. Characters above U+00FF are sent as UTF-8."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    text = "\r\n".join(lines) + "\r\n\r\n"
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def whole_answer(done: Exchange) -> Answer | None:
    """The answer if it came as a whole."""
    return done.answers[0] if done.answers and done.answers[0].complete else None


async def look_at(url: str, key: str | None, *, vocab_size: int | None = None) -> Target:
    """Find out what runs at `url`.

    Raises:
        AttackError: nothing there answers like an OpenAI-compatible server.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme != "http" or parts.hostname is None:
        raise AttackError(f"{url} is not an http:// address; this tool writes raw HTTP and has no TLS.")
    target = Target(parts.netloc, parts.hostname, parts.port or 80, key=key)
    models = await target.json("/v1/models")
    if not isinstance(models, dict) or not models.get("data"):
        reached = (await target.ask(target.get("/v1/models"))).outcome is not Outcome.UNREACHABLE
        raise AttackError(f"{url} {'has no model for this key' if reached else 'does not answer'}.")
    return await _described(target, models["data"][0], vocab_size)


async def _described(target: Target, model: dict[str, Any], vocab_size: int | None) -> Target:
    owners = {"loopserve": Dialect.LOOPSERVE, "llamacpp": Dialect.LLAMA_CPP, "vllm": Dialect.VLLM}
    dialect = owners.get(str(model.get("owned_by")), Dialect.OTHER)
    meta = model.get("meta") or {}
    version, props, document = await asyncio.gather(
        target.json("/version"), target.json("/props"), target.json("/openapi.json")
    )
    settings = (props or {}).get("default_generation_settings", {}) if isinstance(props, dict) else {}
    return replace(
        target,
        name=dialect if dialect is not Dialect.OTHER else target.name,
        dialect=dialect,
        version=str((version or props or {}).get("version") or (props or {}).get("build_info") or ""),
        model=str(model["id"]),
        vocab_size=vocab_size or meta.get("n_vocab"),
        context=model.get("max_model_len") or settings.get("n_ctx") or DEFAULT_CONTEXT,
        routes=_routes(document),
    )


def _routes(document: Any) -> tuple[tuple[str, str], ...]:
    paths = document.get("paths", {}) if isinstance(document, dict) else {}
    return tuple((method.upper(), path) for path, methods in paths.items() for method in methods)
