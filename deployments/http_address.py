"""Where Serve's proxies listen: a builder must know it, and no public API says. See tests/unit/test_upgrade.py."""

from ray.serve.context import _get_global_client


def http_host() -> str | None:
    """None: Serve does not run, or without HTTP."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.host
