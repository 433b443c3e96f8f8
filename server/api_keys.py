"""Which API keys open the server, and on whose account a request is.

A key's account is its HMAC under a secret of this process. It stands for the key wherever one is told apart from
another (limits, the prefix cache), so no key has to be kept or can be shown, and nobody can make up another's account.
"""

import hmac
import secrets
from collections.abc import Iterable

SECRET_BYTES = 32


class ApiKeys:
    """The keys known now. They can be replaced while requests run; an unchanged key keeps its account."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._accounts: tuple[bytes, ...] = ()
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def accounts(self) -> frozenset[str]:
        """The accounts of all keys."""
        return frozenset(account.hex() for account in self._accounts)

    def replace(self, keys: Iterable[str]) -> None:
        """Know these keys and no others from the next request on."""
        self._accounts = tuple(dict.fromkeys(self._account(key.encode()) for key in keys))

    def account_of(self, key: bytes) -> str | None:
        """The account of a presented key, None if it is unknown.

        All keys are compared, in a time that depends on neither the match nor its place. Hashing first makes the
        lengths equal, which `compare_digest` would otherwise show.
        """
        presented, known = self._account(key), False
        for account in self._accounts:
            known |= hmac.compare_digest(presented, account)
        return presented.hex() if known else None

    def _account(self, key: bytes) -> bytes:
        return hmac.digest(self._secret, key, "sha256")
