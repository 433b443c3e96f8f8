"""Real clients, each in its own environment (`make clients`), against real servers; the heavy ones are left out."""

import pytest

from tests.clients.conftest import Outcomes
from tools.compatibility.catalogue import CLIENTS, Client

LIGHT = [client for client in CLIENTS if not client.heavy]
CASES = [
    pytest.param(client, feature, id=f"{client.name}-{feature}")
    for client in LIGHT
    for feature in client.features
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("client", "feature"), CASES)
def test_client(outcomes: Outcomes, client: Client, feature: str) -> None:
    """The first case of a client runs its whole script."""
    (row,) = [row for row in outcomes.of(client).rows if row.feature == feature]
    known = dict(client.known)
    assert row.passed == (feature not in known), row.detail or f"passes now: {known[feature]}"


def test_the_versions_are_those_of_the_lists(outcomes: Outcomes) -> None:
    majors = {client.name: outcomes.of(client).version.partition(".")[0] for client in LIGHT}
    assert majors["openai-oldest"] == "1"
    assert majors["openai-newest"] == "3"
    assert all(majors.values())
