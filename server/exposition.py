"""In which format a scraper is answered, and the registry in it.

`prometheus_client.exposition.choose_encoder` does the same with three faults (0.26): a version that is no number in a
client's `Accept` raises TypeError, any version that it names is claimed to be what it gets, and the samples of
OpenMetrics lose the colons of their names, though their types don't. None of our names needs escaping.
"""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics

OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_VERSION = "1.0.0"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version={OPENMETRICS_VERSION}; charset=utf-8"
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All series, and their content type.

    Args:
        accept: the header; OpenMetrics is written to whoever lists it, whatever else is there, else text.
    """
    if any(_is_openmetrics(offer) for offer in accept.split(",")):
        return write_openmetrics(registry, escaping=ALLOWUTF8), OPENMETRICS_TYPE
    return write_text(registry, escaping=ALLOWUTF8), TEXT_TYPE


def _is_openmetrics(offer: str) -> bool:
    """Whether it is the version that is written, or any."""
    kind, *rest = (part.strip() for part in offer.split(";"))
    parameters = dict(part.split("=", 1) for part in rest if "=" in part)
    return kind == OPENMETRICS and parameters.get("version", "") in ("", OPENMETRICS_VERSION)
