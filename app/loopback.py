"""Whether a host is this machine alone: what others can reach needs keys, and what they cannot needs no proxy."""

import ipaddress


def is_loopback(host: str) -> bool:
    """False as well for a name that is not `localhost`: what it stands for may change."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
