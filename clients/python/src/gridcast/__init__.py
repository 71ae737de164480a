"""The Python client of Gridcast. `gridcast.publish` sends events to connected clients through Redis."""
