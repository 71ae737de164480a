"""The services. None imports another; what two of them need stands in `services.common`."""
