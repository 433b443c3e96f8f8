"""python -m tools.compatibility: run every client, write the page."""

import argparse
import sys
from itertools import groupby
from pathlib import Path

from tools.compatibility.catalogue import CLIENTS, Client, Engine
from tools.compatibility.page import page
from tools.compatibility.running import Outcome, run_client
from tools.compatibility.servers import CompatibilityError, serving


def main() -> None:
    """Exits with 1 if a client does not do what the catalogue says; the page is written all the same."""
    parser = argparse.ArgumentParser(prog="python -m tools.compatibility", description=__doc__)
    parser.add_argument("--clients", type=Path, default=Path("build/clients"))
    parser.add_argument("--page", type=Path, help="written from this run")
    parser.add_argument("--only", action="append", help="name of a client; may be repeated")
    args = parser.parse_args()
    chosen = [client for client in CLIENTS if not args.only or client.name in args.only]
    try:
        outcomes = run(chosen, args.clients)
    except CompatibilityError as error:
        sys.exit(f"compatibility: {error}")
    if args.page:
        args.page.write_text(page(outcomes), encoding="utf-8")
    wrong = [(one.client.name, row) for one in outcomes for row in one.unexpected()]
    for name, row in wrong:
        sys.stdout.write(f"{name}, {row.feature}: {row.detail or 'passes, though it is a known failure'}\n")
    sys.exit(1 if wrong else 0)


def run(chosen: list[Client], environments: Path) -> list[Outcome]:
    """Run clients one after another, those of one kind of server against the same servers; in the catalogue's order."""
    logs = environments / "logs"
    outcomes = {}
    by_servers = sorted(chosen, key=_servers)
    for (engine, count), clients in groupby(by_servers, key=_servers):
        with serving(engine, count, logs) as servers:
            for client in clients:
                outcome = run_client(client, environments, servers, logs / f"{client.name}.log")
                outcomes[client.name] = outcome
                passed = sum(row.passed for row in outcome.rows)
                sys.stdout.write(f"{client.name} {outcome.version}: {passed} of {len(outcome.rows)}\n")
                sys.stdout.flush()
    return [outcomes[client.name] for client in chosen]


def _servers(client: Client) -> tuple[Engine, int]:
    return client.engine, client.servers


if __name__ == "__main__":
    main()
