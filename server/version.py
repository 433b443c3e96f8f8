"""Version of the installed package, or of the checkout when it isn't installed."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The version string, "0+unknown" when running from a tree that was never installed."""
    try:
        return version("loopserve")
    except PackageNotFoundError:
        return "0+unknown"
