"""The sandboxed chat template."""

import pytest

from engine.errors import InvalidRequestError, TokenizerError
from server.chat_template import ChatTemplate

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


@pytest.mark.parametrize("source", ["{% if %}", "{{ a", "{% for x in y %}", "(" * 10 + "{{ " + "(" * 20_000])
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
