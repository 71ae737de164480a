"""The services. None imports another; what two of them need is in `services.common`."""
