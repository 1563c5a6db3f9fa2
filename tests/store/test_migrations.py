import time

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, create_engine, inspect, text

from app.store import Store, migrate
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


def _at(url: str, revision: str) -> Engine:
    """A database as an older version left it."""
    engine = create_engine(url)
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), revision)
    return engine


async def test_a_filled_ledger_of_before_keeps_its_rows_and_moves_what_is_no_file(url: str, clock: Clock) -> None:
    engine = _at(url, "0003")
    clock.now = int(time.time())
    file = "(id, tenant, purpose, filename, bytes, object_key, created_at, deleted_at)"
    batch = (
        "(id, tenant, status, endpoint, input_file_id, completion_window, total, completed, failed, input_tokens, "
        "cached_tokens, output_tokens, reasoning_tokens, created_at, expires_at, epoch)"
    )
    shard = '(batch_id, "index", "offset", length, first_line, count, state, epoch)'
    segment = '(batch_id, shard, epoch, object_key, start, "end", lines, failed)'
    with engine.begin() as connection:
        for statement in (
            f"INSERT INTO files {file} VALUES ('file-in', 'acme', 'batch', 'f', 1, 'files/file-in', 1, NULL)",
            f"INSERT INTO files {file} VALUES ('file-old', 'acme', 'batch', 'f', 1, 'files/file-old', 1, 5)",
            f"INSERT INTO files {file} VALUES ('file-up', 'acme', 'batch', 'f', 1, 'files/file-up', 1, 9999999999)",
            f"INSERT INTO files {file} VALUES ('segments/b/', 'acme', 'leftover', '', 0, 'segments/b/', 1, 5)",
            f"INSERT INTO batches {batch} VALUES "
            "('batch_1', 'acme', 'in_progress', '/v1/x', 'file-in', '24h', 2, 1, 0, 0, 0, 0, 0, 1, 9999999999, 1)",
            f"INSERT INTO shards {shard} VALUES ('batch_1', 0, 0, 10, 1, 2, 'done', 1)",
            f"INSERT INTO segments {segment} VALUES ('batch_1', 0, 1, 'segments/batch_1/x', 0, 5, '[0]', '[]')",
        ):
            connection.execute(text(statement))
    engine.dispose()
    store = Store.open(url, clock)
    page, _ = await store.list_files(TENANT, purpose=None, ascending=True, limit=9, after=None)
    assert [each.id for each in page] == ["file-in"]
    assert [each.id for each in await store.deleted_files(9)] == ["file-old"]
    assert await store.due_garbage(9) == ["segments/b/"]
    assert len(await store.shard_plans("batch_1")) == 1
    assert [(each.lines, each.digest) for each in await store.segments("batch_1", 0, 0)] == [((0,), None)]
    claim = await store.claim_ended_batch("finaliser", 60)
    assert claim is not None and (claim.batch.id, claim.faults) == ("batch_1", 0)
    clock.now = 9999999999
    assert sorted(await store.due_garbage(9)) == ["files/file-up", "segments/b/"]
    store.close()
