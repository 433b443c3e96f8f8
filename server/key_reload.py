"""SIGHUP: the file of API keys is read again; whatever is wrong with it, the server goes on with the keys it has."""

import logging

from server.api_keys import ApiKeys
from server.errors import SettingsError
from server.key_limits import KeyLimits
from server.settings import Settings

logger = logging.getLogger(__name__)


class KeyReload:
    """Replaces the keys as a whole, between two events of the loop; requests of a removed key run to their end."""

    def __init__(self, settings: Settings, keys: ApiKeys, limits: KeyLimits) -> None:
        self._settings = settings
        self._keys = keys
        self._limits = limits

    def __call__(self) -> None:
        """A signal has come."""
        path = self._settings.api_key_file
        if path is None:
            logger.warning("SIGHUP: nothing to do, as there is no --api-key-file")
            return
        try:
            if (
                path.exists() and not path.is_file()
            ):  # a pipe gives its keys once, and reading it again may wait
                raise SettingsError(f"--api-key-file: {path} is no regular file, so it can't be read again")
            keys = self._settings.all_api_keys()
        except (SettingsError, OSError) as error:
            logger.error("SIGHUP: still %d API keys, as the file can't be used: %s", len(self._keys), error)
            return
        before = self._keys.accounts
        self._keys.replace(keys)
        now = self._keys.accounts
        self._limits.replace(self._settings.key_quota(len(now)), now)
        logger.info("SIGHUP: %d API keys, %d new, %d removed", len(now), len(now - before), len(before - now))
