"""The services' side of Redis pub/sub: subscriptions, publications with metrics, and the translation of the client's errors.

The push protocol itself is in the distribution `gridcast` (clients/python), which the services install.
"""
