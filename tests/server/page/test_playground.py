"""The playground against a real server: what is sent, what is shown, how it is stopped and how it fails."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from tests.server.live import LiveServer
from tests.server.page.conftest import Watched, watched

PROMPT = "def add(a, b):\n    return"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&lt;b&gt;"


def completion(server: LiveServer, **fields: Any) -> dict[str, Any]:
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, **fields}
    answer: dict[str, Any] = (
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    )
    return answer


def metric(server: LiveServer, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("lens", [True, False])
def test_a_completion_is_what_the_api_gives(page: Watched, server: LiveServer, lens: bool) -> None:
    page.set(max_tokens=24, temperature=0)
    page.at("#lens").set_checked(lens)
    page.send(PROMPT)
    assert page.output() == PROMPT + completion(server)["choices"][0]["text"]
    for part in ("24 tokens", "2 loops", "first token", "tokens/s", "ended: length"):
        assert part in page.usage()


def test_sampling_settings_reach_the_server(page: Watched, server: LiveServer) -> None:
    page.set(max_tokens=16, temperature=1.5, top_p=0.9, seed=7)
    page.send(PROMPT)
    wanted = completion(server, max_tokens=16, temperature=1.5, top_p=0.9, seed=7)["choices"][0]["text"]
    assert page.output() == PROMPT + wanted
    page.set(seed=8)
    page.send(PROMPT)
    assert page.output() != PROMPT + wanted


def test_it_arrives_piece_by_piece(page: Watched) -> None:
    page.set(max_tokens=400, temperature=0)
    page.begin(PROMPT)
    expect(page.at(".token").nth(5)).to_be_visible()
    expect(page.at("#output")).to_have_attribute("aria-busy", "true")
    assert page.at("#send").is_disabled()
    page.wait_end()
    expect(page.at(".token")).to_have_count(int(re.search(r"(\d+) tokens", page.usage())[1]))  # type: ignore[index]


def test_a_chat_remembers_what_was_said(page: Watched) -> None:
    page.choose("Chat")
    page.set(max_tokens=12, temperature=0)
    page.send("Write a function.")
    assert page.at(".turn").count() == 2
    assert page.at(".turn").nth(0).inner_text() == "You\nWrite a function."
    assert "12 tokens" in page.usage()
    first = int(page.usage().split(" ")[0])
    assert page.at("#prompt").input_value() == ""
    page.send("Another one.")
    assert page.at(".turn").count() == 4
    assert int(page.usage().split(" ")[0]) > first + 12, "the answer is part of the next prompt"
    page.at("#clear").click()
    page.send("Write a function.")
    assert int(page.usage().split(" ")[0]) == first


@pytest.mark.parametrize("how", ["button", "Escape", "Clear"])
def test_stopping_ends_the_work_in_the_engine(page: Watched, server: LiveServer, how: str) -> None:
    aborted = 'loopserve_request_success_total{finished_reason="abort"}'
    before = metric(server, aborted)
    page.set(max_tokens=1900, temperature=2, seed=1)
    page.begin(PROMPT)
    expect(page.at(".token").nth(10)).to_be_visible()
    if how == "Escape":
        page.page.keyboard.press("Escape")
    else:
        page.at("#stop" if how == "button" else "#clear").click()
    page.wait_end()
    wait_for(lambda: metric(server, aborted) == before + 1)
    wait_for(lambda: metric(server, "loopserve_num_requests_running") == 0)
    if how == "Clear":
        assert page.usage() == ""
        assert page.at(".token").count() == 0
    else:
        assert "stopped" in page.usage()
        assert page.at(".token").count() > 10
    expect(page.at("#problem")).to_be_hidden()
    page.set(max_tokens=4)
    page.send(PROMPT)
    assert "4 tokens" in page.usage()


def test_the_slider_sets_the_loops(page: Watched, server: LiveServer) -> None:
    slider = page.page.get_by_role("slider", name="Loops")
    assert (slider.get_attribute("min"), slider.get_attribute("max"), slider.input_value()) == ("1", "2", "2")
    slider.focus()
    page.page.keyboard.press("ArrowLeft")
    expect(page.at("#loops-shown")).to_have_text("1 of 2")
    page.set(max_tokens=24, temperature=0)
    page.send(PROMPT)
    assert "1 loop ·" in page.usage()
    assert page.output() == PROMPT + completion(server, loops=1)["choices"][0]["text"]


def test_who_is_faster_than_the_models_card_gets_all_loops(browser: Browser, server: LiveServer) -> None:
    with watched(browser, server.url) as page:
        page.expected.append("ERR_FAILED")
        page.page.route("**/v1/models", lambda route: route.abort())
        page.open(ready=False)
        page.set(max_tokens=4)
        page.send(PROMPT)
        assert "2 loops" in page.usage()


def test_ctrl_enter_sends(page: Watched) -> None:
    page.set(max_tokens=3)
    page.at("#prompt").fill(PROMPT)
    page.at("#prompt").press("Control+Enter")
    expect(page.at("#usage")).to_contain_text("3 tokens")


def test_the_servers_refusal_is_shown_in_its_words(page: Watched) -> None:
    page.expected.append("400")
    page.set(max_tokens=2000)
    page.send("word " * 3000)
    expect(page.at("#problem")).to_contain_text("maximum context length is 2048 tokens")
    expect(page.at("#problem")).to_have_attribute("role", "alert")
    page.set(max_tokens=4)
    page.send(PROMPT)
    expect(page.at("#problem")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("temperature", "3", "Temperature must be a number from 0 to 2."),
        ("max_tokens", "0", "Max tokens must be a whole number from 1 to 2048."),
        ("max_tokens", "1.5", "Max tokens must be a whole number"),
        ("top_p", "0", "Top p must be a number from 0.01 to 1."),
        ("seed", "0.5", "Seed must be a whole number."),
        ("prompt", "", "Type something first."),
    ],
)
def test_a_wrong_setting_is_not_sent(page: Watched, name: str, value: str, text: str) -> None:
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    page.set(prompt=PROMPT)
    page.set(**{name: value})
    page.at("#send").click()
    expect(page.at("#problem")).to_contain_text(text)
    expect(page.at(f"#{name.replace('_', '-')}")).to_be_focused()
    assert not any("completions" in url for url in asked)


def answers(page: Watched, body: str, status: int = 200) -> None:
    """Let the generating endpoints answer this."""
    kind = "text/event-stream" if status == 200 else "application/json"
    page.page.route(
        "**/v1/*completions", lambda route: route.fulfill(status=status, body=body, content_type=kind)
    )
    page.page.route("**/v1/chat/*", lambda route: route.fulfill(status=status, body=body, content_type=kind))


def chunk(**choice: Any) -> str:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "loops": 2}
    return (
        "data: "
        + json.dumps({"choices": [{"index": 0, "finish_reason": None, **choice}], "usage": usage})
        + "\n\n"
    )


@pytest.mark.parametrize("mode", ["Completion", "Chat", "tokens"])
def test_what_a_model_writes_is_never_markup(page: Watched, mode: str) -> None:
    answers(
        page,
        chunk(
            text=HOSTILE,
            delta={"content": HOSTILE},
            logprobs={"tokens": [HOSTILE]},
            loop_logprobs=[[-2.0, -1.0]],
            loop_tokens=[[HOSTILE, HOSTILE]],
        )
        + "data: [DONE]\n\n",
    )
    page.choose("Chat" if mode == "Chat" else "Completion")
    if mode == "Completion":
        page.at("#lens").uncheck()
    page.send(HOSTILE)
    assert page.output().count(HOSTILE) == 2
    if mode == "tokens":
        page.at(".token").click()
        assert "onerror" in page.at("#inspector").inner_text()
    assert page.at("#output img, #output script, #inspector img").count() == 0
    assert page.page.title() == "demo · loopserve"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ('{"error": {"message": "No <b>room</b> today."}}', 503, "No <b>room</b> today."),
        ("<html>Bad gateway</html>", 502, "The server answered 502 without saying why."),
        (chunk(text="a"), 200, "The connection ended before the answer did."),
        (chunk(text="a") + 'data: {"error": {"message": "It died."}}\n\ndata: [DONE]\n\n', 200, "It died."),
    ],
)  # fmt: skip
def test_failures_are_shown_in_words(page: Watched, body: str, status: int, text: str) -> None:
    page.expected.append("Failed to load resource")
    answers(page, body, status)
    page.send(PROMPT)
    expect(page.at("#problem")).to_have_text(text)


def test_a_refused_chat_message_is_not_lost(page: Watched) -> None:
    page.expected.append("Failed to load resource")
    page.choose("Chat")
    answers(page, '{"error": {"message": "Later."}}', 503)
    page.send("Keep me.")
    expect(page.at("#problem")).to_have_text("Later.")
    assert page.at("#prompt").input_value() == "Keep me."
    assert page.at(".turn").count() == 0


def test_a_server_that_is_gone(page: Watched) -> None:
    page.expected.append("ERR_")
    page.page.route("**/v1/completions", lambda route: route.abort())
    page.send(PROMPT)
    expect(page.at("#problem")).to_have_text("The server can’t be reached.")


def test_a_retry_after_is_passed_on(page: Watched) -> None:
    page.expected.append("Failed to load resource")
    body = '{"error": {"message": "Full."}}'
    page.page.route(
        "**/v1/completions", lambda route: route.fulfill(status=503, body=body, headers={"Retry-After": "7"})
    )
    page.send(PROMPT)
    expect(page.at("#problem")).to_have_text("Full. Try again in 7 s.")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_however_the_bytes_are_cut(page: Watched, size: int) -> None:
    text = ': comment\n\ndata: {"a": "grüße 😀"}\n\nevent: x\ndata: one\ndata:two\n\nid: 3\n\ndata: [DONE]\n\ndata: cut'
    body = """
      const bytes = new TextEncoder().encode(argument.text);
      const stream = new ReadableStream({ start(control) {
        for (let at = 0; at < bytes.length; at += argument.size) control.enqueue(bytes.slice(at, at + argument.size));
        control.close();
      } });
      const out = [];
      for await (const data of it.eventData(stream)) out.push(data);
      return out;
    """
    read = page.run("sse.js", body, {"text": text, "size": size})
    assert read == ['{"a": "grüße 😀"}', "one\ntwo", "[DONE]"]


def test_a_stream_that_breaks(page: Watched) -> None:
    body = """
      const stream = new ReadableStream({ pull(control) { control.error(new TypeError("network error")); } });
      try {
        for await (const data of it.eventData(stream)) return data;
      } catch (failure) {
        return failure.message;
      }
    """
    assert page.run("sse.js", body) == "The connection broke before the answer ended."


def test_behind_a_path_prefix(page: Watched, server: LiveServer) -> None:
    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/some/prefix/", "/")))

    page.page.route("**/some/prefix/**", forward)
    page.open("/some/prefix/")
    page.set(max_tokens=5)
    page.send(PROMPT)
    assert "5 tokens" in page.usage()
