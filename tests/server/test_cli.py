"""The command line: complete help, one clear line and exit code 2 for every mistake."""

import re
import socket
from pathlib import Path

import pytest

from server import cli, settings
from server.listener import bind
from server.runner import address_of, curl_line
from server.settings import Settings, option_name
from server.version import package_version


@pytest.fixture(autouse=True)
def _wide_plain_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(settings, "DEMO_MODEL", tmp_path / "no-demo")


def test_help_mentions_every_setting_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--help"]) == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for name, info in Settings.model_fields.items():
        assert name == "model" or option_name(name) in shown, name
        assert " ".join((info.description or "?").split()) in shown, name
    for panel in ("Model", "Server", "Access", "Engine"):
        assert panel in shown


def test_every_setting_is_a_parameter_and_nothing_else_is() -> None:
    parameters = set(cli.serve.__annotations__) - {"context", "return"}
    assert parameters == set(Settings.model_fields)


def test_help_of_the_program_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "serve" in shown
    assert "version" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out.strip() == package_version()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve"], "MODEL is required"),
        (["serve", "/no/such/dir", "--port", "0"], "neither an existing directory nor a hub id"),
        (["serve", "{model}", "--port", "eighty"], "--port"),
        (["serve", "{model}", "--port", "99999"], "--port"),
        (["serve", "{model}", "--prot", "80"], "--prot"),
        (["serve", "{model}", "extra"], "extra"),
        (["serve", "{model}", "--execution", "both"], "--execution"),
        (["serve", "{model}", "--model-overrides", "{{"], "--model-overrides"),
        (["serve", "{model}", "--port", "0", "--model-overrides", '{{"no_such_key": 1}}'], "no_such_key"),
        (["serve", "{model}", "--model-overrides", "[" * 100_000], "--model-overrides: is nested too deeply"),
        (["serve", "m" * 10_000, "--port", "0"], "File name too long"),
        (["serve", "../../etc/passwd", "--port", "0"], "is"),
        (["serve", "{model}", "--port", "0", "--revision", "main"], "--revision is for models of the hub"),
        (["serve", "owner/name", "--revision", "../x"], "--revision"),
        (["serve", "{model}", "--served-model-name", "n" * 1000], "--served-model-name"),
        (["serve", "{model}", "--port", "0", "--chat-template", "/no/such/file"], "--chat-template"),
        (["serve", "{model}", "--api-key", ""], "--api-key"),
        (["serve", "{empty}", "--port", "0"], "config.json"),
        (["sevre"], "sevre"),
        (["--version"], "--version"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], text: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(model=checkpoint, empty=tmp_path) for argument in arguments]
    assert cli.run(filled) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("loopserve: ")
    assert text in line
    assert captured.out == ""


def test_a_taken_port_is_a_usage_error(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert cli.run(["serve", str(checkpoint), "--port", str(port)]) == 2
    assert f"can't listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_the_printed_address_can_be_used_from_this_machine() -> None:
    with bind("0.0.0.0", 0) as listening:
        address = address_of(listening)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5).close()


def test_the_curl_line_is_safe_to_paste() -> None:
    line = curl_line("http://127.0.0.1:1", "it's", with_key=True)
    assert "$API_KEY" in line
    assert '\'{"model":"it\'"\'"\'s"' in line
