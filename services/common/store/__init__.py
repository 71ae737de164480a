"""What stores promise, and the stores."""
