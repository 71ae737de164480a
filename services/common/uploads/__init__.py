"""What the services that take uploads share: request bodies, limits, leases, locks, cleanup, the outbox publisher."""
