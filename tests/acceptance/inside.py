"""What the processes of a server show of themselves to the machine that they run on."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.acceptance.server import Server, title_of


def family(server: Server) -> list[psutil.Process]:
    """`batchyard serve` and all that it started."""
    assert server.process is not None
    return [psutil.Process(server.process.pid), *server.processes()]


def scratch(server: Server) -> Path:
    """The folder of Ray's and vLLM's sockets, and of Ray's logs."""
    return Path(family(server)[1].cmdline()[-1])


def listening(server: Server) -> Iterator[tuple[int, str]]:
    """Ports on which a process hears TCP, or UDP of anybody, each with the address and the process."""
    for process in family(server):
        for socket in process.net_connections("inet"):
            if socket.status == psutil.CONN_LISTEN or (socket.status == psutil.CONN_NONE and not socket.raddr):
                yield socket.laddr.port, f"{socket.laddr.ip} {title_of(process)[:80]}"


def open_to_others(server: Server) -> dict[int, str]:
    """Those of `listening` whose address is not loopback."""
    return {port: what for port, what in listening(server) if not _is_loopback(what.partition(" ")[0])}


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback  # gRPC's sockets take both families
