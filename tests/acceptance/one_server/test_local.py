"""Local means local: what a server with the default settings shows to others of its machine and of its network."""

import psutil

from app.file_modes import OTHERS
from deployments.local.cluster import RAYS_TOKEN
from tests.acceptance.inside import family, listening, open_to_others, scratch
from tests.acceptance.lines import chats
from tests.acceptance.server import Server


def test_nothing_of_it_hears_the_network(server: Server) -> None:
    ports = dict(listening(server))
    assert server.port in ports
    assert len(ports) > 10, "Ray's are among them"
    assert open_to_others(server) == {}


def test_its_files_are_its_owners_alone(server: Server) -> None:
    server.finished(server.create(chats(3)).id)
    for folder in (server.data, scratch(server)):
        assert not folder.stat().st_mode & OTHERS
    kept = [path for path in server.data.rglob("*") if path.exists()]
    assert {"batchyard.db", "objects", "serve.lock"} <= {path.name for path in kept}
    assert [path for path in kept if path.stat().st_mode & OTHERS] == []
    assert not RAYS_TOKEN.expanduser().stat().st_mode & OTHERS
    umasks = {(process.name(), umask(process)) for process in family(server)}
    assert {each for each in umasks if each[1] != OTHERS} == set()


def umask(process: psutil.Process) -> int:
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
