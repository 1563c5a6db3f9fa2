"""The port on which Serve's replicas hear each other, on loopback where Ray is: Serve opens it on all addresses.

tests/unit/test_upgrade.py says when an upgrade broke it.
"""

from typing import Any

import ray
from ray.serve._private import replica

from app.loopback import is_loopback

EVERYWHERE, HERE = "[::]:", "127.0.0.1:"

_add_port = replica.add_port_to_grpc_server


def keep_to_loopback() -> None:
    """To be called in a replica's constructor: Serve opens the port once that is through."""
    if is_loopback(ray.util.get_node_ip_address()):
        replica.add_port_to_grpc_server = _add_port_here


def _add_port_here(server: Any, address: str) -> int:
    return int(_add_port(server, address.replace(EVERYWHERE, HERE)))
