"""Keys and the accounts they stand for; the file they come from, read again on SIGHUP."""

import logging
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api_keys import ApiKeys
from server.errors import SettingsError
from server.key_file import read_keys
from server.key_limits import KeyLimits, KeyQuota
from server.key_reload import KeyReload
from server.settings import Settings

KEYS = ("first-key", "second-key")


def test_an_account_says_nothing_about_its_key_and_differs_between_processes() -> None:
    one, other = ApiKeys(KEYS), ApiKeys(KEYS)
    account = one.account_of(b"first-key")
    assert account is not None
    assert re.fullmatch("[0-9a-f]{64}", account)
    assert account == one.account_of(b"first-key")
    assert len({account, one.account_of(b"second-key"), other.account_of(b"first-key")}) == 3
    assert one.accounts == {account, one.account_of(b"second-key")}
    assert "first-key" not in str(vars(one))


@given(presented=st.binary(max_size=12), keys=st.sets(st.text(min_size=1, max_size=4), max_size=4))
def test_known_is_what_was_given_and_nothing_else(presented: bytes, keys: set[str]) -> None:
    known = ApiKeys(keys)
    assert (known.account_of(presented) is not None) == (presented in {key.encode() for key in keys})
    assert all(known.account_of(key.encode()) for key in keys)
    assert len(known) == len(known.accounts) == len(keys)


def test_every_key_is_compared_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No early end, and nothing but digests of one length, or the time would tell."""
    keys, compared = ApiKeys([f"key-{number}" for number in range(20)]), []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("server.api_keys.hmac.compare_digest", compare)
    for presented in (b"key-0", b"key-19", b"key-", b"", b"x" * 1_000_000):
        compared.clear()
        keys.account_of(presented)
        assert compared == [(32, 32)] * 20


def test_replacing_keeps_the_accounts_of_unchanged_keys() -> None:
    keys = ApiKeys(KEYS)
    before = keys.account_of(b"first-key")
    keys.replace(["third-key", "first-key"])
    assert keys.account_of(b"first-key") == before
    assert keys.account_of(b"second-key") is None
    assert keys.account_of(b"third-key") is not None


def test_a_key_file_has_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team A\nfirst-key\n\n   \n  # old-key\n\tsecond-key \r\nwith#inside\n")
    assert read_keys(file) == ("first-key", "second-key", "with#inside")


@pytest.mark.parametrize("between", list(" \t\x00\x7f\x0b\x85\u00a0\u200b\u2028"))
def test_what_no_client_could_send_is_refused_without_being_shown(between: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# one\nfine\nse{between}cret\n")
    with pytest.raises(SettingsError, match="line 3") as caught:
        read_keys(file)
    assert "cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Reloadable:
    """A key file, and what SIGHUP makes of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_text("first-key\nsecond-key\n")
        settings = Settings(model="m", api_key_file=file, max_num_seqs=10, max_waiting_requests=10)
        self.keys = ApiKeys(settings.all_api_keys())
        self.limits = KeyLimits(settings.key_quota(2))
        self.reload = KeyReload(settings, self.keys, self.limits)

    def known(self, *keys: str) -> list[bool]:
        return [self.keys.account_of(key.encode()) is not None for key in keys]


@pytest.fixture
def reloadable(tmp_path: Path) -> Reloadable:
    return Reloadable(tmp_path / "keys")


def test_sighup_takes_the_new_keys_and_says_how_many(
    reloadable: Reloadable, caplog: pytest.LogCaptureFixture
) -> None:
    first = reloadable.keys.account_of(b"first-key")
    reloadable.file.write_text("first-key\nthird-key\nfourth-key\n")
    with caplog.at_level(logging.INFO):
        reloadable.reload()
    assert reloadable.known("first-key", "second-key", "third-key", "fourth-key") == [True, False, True, True]
    assert reloadable.keys.account_of(b"first-key") == first
    assert "3 API keys, 2 new, 1 removed" in caplog.text
    assert "-key" not in caplog.text.replace("API key", "")


@pytest.mark.parametrize("content", [b"", b"\n# only a comment\n", b"\xff\xfe", b"a b\n", b"x" * (2 << 20)])
def test_a_bad_file_changes_nothing(
    reloadable: Reloadable, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reloadable.file.write_bytes(content)
    reloadable.reload()
    assert reloadable.known("first-key", "second-key") == [True, True]
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "still 2 API keys" in record.getMessage()


def test_an_absent_file_and_a_pipe_change_nothing(
    reloadable: Reloadable, caplog: pytest.LogCaptureFixture
) -> None:
    reloadable.file.unlink()
    reloadable.reload()
    os.mkfifo(reloadable.file)
    reloadable.reload()  # must not wait for somebody to write
    assert reloadable.known("first-key", "second-key") == [True, True]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_the_default_of_concurrency_follows_the_number_of_keys(reloadable: Reloadable) -> None:
    settings = reloadable.reload._settings
    assert [settings.key_quota(number).concurrency for number in (0, 1, 2)] == [None, None, 10]
    assert Settings(model="m", key_concurrency=3).key_quota(0) == KeyQuota(3)
    reloadable.file.write_text("first-key\n")
    reloadable.reload()
    assert reloadable.limits._quota.concurrency is None


def test_without_a_file_sighup_says_so(caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(KEYS)
    KeyReload(Settings(model="m"), keys, KeyLimits(KeyQuota()))()
    assert len(keys) == 2
    assert "no --api-key-file" in caplog.text
