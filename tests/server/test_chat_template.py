"""The sandboxed chat template."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import InvalidRequestError, TokenizerError
from server.chat_template import ChatTemplate, TemplateLimitError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def render(source: str, messages: list[dict[str, str]] | None = None, prompt: bool = True) -> str:
    return ChatTemplate(source, SPECIAL).render(messages or MESSAGES, prompt)


def test_the_environment_is_the_one_templates_expect() -> None:
    source = (
        "{{ bos_token }}\n"
        "{% for message in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "    {{- message.role }}:{{ message['content'] }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}>{% endif %}{{ eos_token }}"
    )
    assert render(source) == "<s>\nuser:hi\n></s>"
    assert render("{% if add_generation_prompt %}>{% endif %}", prompt=False) == ""


def test_tojson_does_not_escape_html() -> None:
    assert render("{{ {'a': '<é&'} | tojson }}") == '{"a": "<é&"}'
    assert render("{{ [1] | tojson(indent=1) }}") == "[\n 1\n]"


def test_strftime_now() -> None:
    assert render("{{ strftime_now('%Y') }}").isdigit()


@pytest.mark.parametrize("content", ["{{ 7 * 7 }}", "{% for x in y %}", "{{ ''.__class__ }}", "{# #}"])
def test_content_is_never_a_template(content: str) -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": content}]) == content


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must\\nalternate') }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[7].content.x }}",
        "{{ 1 // 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ range(10 ** 7) | list }}",
        "{{ nothing() }}",
        "{{ [].pop() }}",
    ],
)
def test_a_template_that_fails_is_a_short_400(source: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render(source)
    assert caught.value.param == "messages"
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_the_reason_of_raise_exception_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        *("{% if %}", "{{ a", "{% for x in y %}", "(" * 10 + "{{ " + "(" * 20_000),
        "{{ " + "(" * 6000 + "1" + ")" * 6000 + " }}",
        "{{ " + "not " * 6000 + "1 }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for a in [1] %}" * 25 + "{% endfor %}" * 25,  # SyntaxError: Python's own limit on nested blocks
        "{{ 1" + "|string" * 6000 + " }}",
    ],
)
def test_a_malformed_template_is_found_at_the_start(source: str) -> None:
    with pytest.raises(TokenizerError, match="doesn't compile"):
        ChatTemplate(source, SPECIAL)


def test_tools_and_options_reach_the_template() -> None:
    template = ChatTemplate("{{ tools | tojson }}{{ mode }}{{ bos_token }}", SPECIAL)
    assert template.render(MESSAGES, True, [{"a": 1}], {"mode": "m"}) == '[{"a": 1}]m<s>'
    assert template.render(MESSAGES, True) == "null<s>"
    assert {"messages", "tools", "bos_token", "tokenize"} <= template.reserved


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("{{ messages[0].content }}", False),
        ("{{ tools | tojson }}", True),
        ("{% if tools %}{{ tools[0].function.name }}{% endif %}", True),
        ("{{ raise_exception('no') }}", False),
    ],
)
def test_whether_a_template_shows_tools(source: str, shows: bool) -> None:
    assert ChatTemplate(source, SPECIAL).renders_tools() is shows


QUADRATIC = "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}"
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "{% set x %}{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}{% endset %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
    "{% for a in [1] recursive %}{% if loop.depth < 6 %}{{ loop(range(999)) }}{% endif %}{% endfor %}",
    "{% macro m() %}{% for a in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}"
    "{% call m() %}{% for a in range(99999) %}{% endfor %}{% endcall %}",
]


@pytest.mark.parametrize("source", ENDLESS)
def test_loops_end_when_their_time_is_up(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.chat_template.RENDER_CPU_S", 0.2)
    started = time.thread_time()
    with pytest.raises(TemplateLimitError, match=r"more than 0\.2 s") as caught:
        render(source)
    assert caught.value.param == "messages"
    assert time.thread_time() - started < 2


def test_time_is_counted_per_conversation_and_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.chat_template.RENDER_CPU_S", 0.3)
    template = ChatTemplate(QUADRATIC, SPECIAL)
    with ThreadPoolExecutor(2) as threads:
        long = threads.submit(template.render, MESSAGES * 50_000, True)
        short = [threads.submit(template.render, MESSAGES, True) for _ in range(100)]
        assert [future.result() for future in short] == [""] * 100
        with pytest.raises(TemplateLimitError):
            long.result()
    assert template.render(MESSAGES, True) == ""


def test_what_a_template_makes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.chat_template.MAX_PROMPT_CHARS", 1000)
    assert len(render("{% for a in range(10) %}{{ 'x' * 100 }}{% endfor %}")) == 1000
    with pytest.raises(TemplateLimitError, match="more than 1000 characters"):
        render("{% for a in range(10) %}{{ 'x' * 100 }}{% endfor %}y")


def test_memory_that_is_not_there_is_the_requests_error() -> None:
    with pytest.raises(TemplateLimitError, match="memory"):
        render("{{ messages[0].content * 10 ** 17 }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{a.__class__}'.format_map({'a': 1}) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages[0].items.__self__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ (messages|map(attribute='__class__')|list)[0] }}",
        "{{ [1]|tojson(default=strftime_now, cls=''.__class__) }}",
        "{{ interruption }}{{ environment }}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    """What is refused is undefined, which renders as nothing, or the request's error."""
    try:
        text = render(source)
    except InvalidRequestError as error:
        text = str(error)
    assert "module" not in text
    assert "<" not in text
    assert "root:" not in text


def test_an_indentation_of_a_gigabyte_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="indent may be at most 16"):
        render("{{ [1] | tojson(indent=1000000000) }}")
