"""All attacks, in the order in which they are tried."""

from tests.siege import batches, bodies, engine, keys, protocol
from tests.siege.attack import Attack

ATTACKS: tuple[Attack, ...] = tuple(
    attack for module in (protocol, keys, engine, bodies, batches) for attack in module.ATTACKS
)
