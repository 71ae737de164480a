"""Webhooks: committed changes are delivered to endpoints of other applications, and one is asked before an upload."""
