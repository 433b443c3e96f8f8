"""Some seconds of every kind of request, so that every series of a server moves."""

import itertools
import threading
import time
from collections.abc import Callable

import httpx

CODE = "def fibonacci(n):\n    if n < 2:\n        return n\n" * 5
MESSAGES = [{"role": "user", "content": "Write a Python function `is_even`."}]


class Load:
    """Clients of one server, each in a thread, until `seconds` are over."""

    def __init__(self, url: str, api_key: str, seconds: float) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30, trust_env=False
        )
        self._deadline = time.monotonic() + seconds
        self._numbers = itertools.count()
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Return when all clients are done; raise what one of them raised."""
        kinds = (self._stream, self._chat, self._constrained, self._leave, self._outstay, self._mistake)
        threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        threads += [threading.Thread(target=self._repeat, args=(self._burst,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._client.close()
        if self._failures:
            raise self._failures[0]

    def _repeat(self, kind: Callable[[], None]) -> None:
        try:
            while time.monotonic() < self._deadline:
                kind()
        except BaseException as failure:
            self._failures.append(failure)

    def _post(self, path: str, **body: object) -> int:
        status = self._client.post(path, json=body).status_code
        if status == 503:
            time.sleep(0.1)
        return status

    def _stream(self) -> None:
        """The same prompt again and again: prefix cache hits."""
        body = {"prompt": CODE, "max_tokens": 40, "stream": True, "temperature": 0}
        with self._client.stream("POST", "/v1/completions", json=body) as answer:
            for _ in answer.iter_bytes():
                pass

    def _chat(self) -> None:
        self._post("/v1/chat/completions", messages=MESSAGES, max_tokens=20)

    def _constrained(self) -> None:
        """A schema that was never seen: it has to be compiled."""
        name = f"n{next(self._numbers)}"
        schema = {"type": "object", "properties": {name: {"type": "boolean"}}, "required": [name]}
        form = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        self._post("/v1/chat/completions", messages=MESSAGES, response_format=form, max_tokens=40)

    def _leave(self) -> None:
        """A client that goes away after the first bytes."""
        body = {"prompt": "import os", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with self._client.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_raw())
        time.sleep(0.2)

    def _outstay(self) -> None:
        """More than the server's deadline allows."""
        self._post("/v1/completions", prompt="class", max_tokens=1000, ignore_eos=True)

    def _mistake(self) -> None:
        assert self._client.get("/nothing").status_code == 404
        assert self._post("/v1/completions", prompt=5.5) in (400, 503)
        time.sleep(0.3)

    def _burst(self) -> None:
        """Four sequences that come in together or not at all: refusals. A prompt of its own: no cache hits."""
        prompt = f"# {next(self._numbers)}\n{CODE}"
        self._post("/v1/completions", prompt=prompt, n=4, temperature=1, max_tokens=200, ignore_eos=True)
        time.sleep(0.5)
