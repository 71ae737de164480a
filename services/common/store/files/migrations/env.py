"""Run by Alembic, with the connection and the transaction of the caller."""

from alembic import context

from services.common.store.files import schema

context.configure(connection=context.config.attributes["connection"], target_metadata=schema.metadata)
context.run_migrations()
