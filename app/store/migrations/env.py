"""Alembic's entry: migrates over the connection that `app.store.migrate` hands in, inside its transaction."""

from alembic import context

from app.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
