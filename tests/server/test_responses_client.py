"""What the openai client makes of `/v1/responses`; the server is a real process with a random model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.server.live import live_server

COMMON: dict[str, Any] = {"model": "tiny", "input": "hi", "temperature": 0}


@pytest.fixture(scope="module")
def client(checkpoint: Path) -> Iterator[OpenAI]:
    with live_server(checkpoint, "--kv-cache-memory", "64MiB", "--served-model-name", "tiny") as live:
        yield live.client()


def test_the_stream_helper_assembles_what_create_gives(client: OpenAI) -> None:
    whole = client.responses.create(**COMMON, max_output_tokens=12)
    assert whole.output_text
    assert whole.usage is not None
    with client.responses.stream(**COMMON, max_output_tokens=12) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert text == last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage.model_copy(
        update={"input_tokens_details": last.response.usage.input_tokens_details}
    )


def test_a_conversation_goes_on_without_storage(client: OpenAI) -> None:
    first = client.responses.create(**COMMON, max_output_tokens=5)
    items: Any = [{"role": "user", "content": "hi"}, *first.output, {"role": "user", "content": "and?"}]
    second = client.responses.create(**{**COMMON, "input": items}, max_output_tokens=5)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**COMMON, previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
