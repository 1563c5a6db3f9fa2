from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, text

from app.store import Store
from app.store.tables import metadata
from tests.store.scene import TENANT, Clock, new_batch, the_batch


def test_the_migrations_make_the_tables_that_the_code_uses(url: str, clock: Clock) -> None:
    store = Store.open(url, clock)
    with store.begin(write=False) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.close()


def test_the_migrations_make_the_checks_that_the_code_states(url: str, clock: Clock) -> None:
    """Alembic does not compare them."""
    store = Store.open(url, clock)
    with store.begin(write=False) as connection:
        found = {
            check["name"] for table in metadata.tables for check in inspect(connection).get_check_constraints(table)
        }
    store.close()
    stated = [each for table in metadata.tables.values() for each in table.constraints]
    assert found == {each.name for each in stated if isinstance(each, CheckConstraint)}


async def test_opening_again_keeps_what_is_there(url: str, clock: Clock) -> None:
    store = Store.open(url, clock)
    await new_batch(store)
    batch = await the_batch(store)
    store.close()
    store = Store.open(url, clock)
    assert await store.batch(TENANT, batch.id) == batch
    with store.begin(write=False) as connection:
        assert len(connection.execute(text("select * from alembic_version")).all()) == 1
    store.close()
