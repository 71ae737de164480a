"""The push protocol over Redis: envelope, keys, script and connection. Internal: shared by the client and Gridcast's services,
changed without notice.
"""
