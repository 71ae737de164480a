"""Redis pub/sub: client, subscription, publisher and the event envelope."""
