"""Some rows of `make siege`, without its promises of time, which a busy machine may break."""

import pytest

from tests.acceptance.server import Server
from tests.siege.attacks import ATTACKS
from tests.siege.honest import quiet
from tests.siege.strike import strike

ROWS = {each.name: each for each in ATTACKS if each.name in ("empty-messages-120kb", "no-http")}


@pytest.mark.parametrize("name", ROWS)
def test_an_attack_costs_nobody_else_anything(server: Server, name: str) -> None:
    row = strike(ROWS[name], server, quiet(server, 1))
    assert row.broken == [], row
