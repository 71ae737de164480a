"""The upload writer: chunking, checkpoints, lease, locks, rehash."""
