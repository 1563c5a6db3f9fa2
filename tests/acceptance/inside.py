"""What the processes of a server show of themselves to the machine that they run on."""

import ipaddress
from pathlib import Path

import psutil

from tests.acceptance.server import Server


def family(server: Server) -> list[psutil.Process]:
    """`batchyard serve` and all that it started."""
    assert server.process is not None
    return [psutil.Process(server.process.pid), *server.processes()]


def scratch(server: Server) -> Path:
    """The folder of Ray's and vLLM's sockets, and of Ray's logs."""
    return Path(family(server)[1].cmdline()[-1])


def open_to_others(server: Server) -> set[int]:
    """Ports on which a process of the server hears the network, TCP and UDP."""
    return {
        socket.laddr.port
        for process in family(server)
        for socket in process.net_connections("inet")
        if socket.laddr
        and (socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE))
        and not ipaddress.ip_address(socket.laddr.ip).is_loopback
    }


def listening(server: Server) -> set[int]:
    return {
        socket.laddr.port
        for process in family(server)
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
