"""transformers behind the least HTTP that streams completions: one request at a time, greedy, key-value cache.

Runs in the environment of transformers, not in loopserve's:

    python transformers_server.py LLAMA_DIR PORT THREADS
"""

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch
from transformers import AutoModelForCausalLM


class Handler(BaseHTTPRequestHandler):
    """`/v1/models` and streamed `/v1/completions` of token ids."""

    protocol_version = "HTTP/1.0"  # the end of the answer is the end of the connection

    def do_GET(self) -> None:
        self._begin()
        self.wfile.write(json.dumps({"data": [{"id": "transformers"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._begin()
        for token in generate(body["prompt"], body["max_tokens"]):
            self._event({"choices": [{"index": 0, "text": f" {token}"}]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _begin(self) -> None:
        self.send_response(200)
        self.end_headers()

    def _event(self, event: dict[str, object]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


@torch.inference_mode()
def generate(prompt: list[int], max_tokens: int) -> Iterator[int]:
    """Greedy tokens; only the last position's logits are computed."""
    ids, cache = torch.tensor([prompt]), None
    for _ in range(max_tokens):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        yield int(ids)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
