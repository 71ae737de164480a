"""What runs inside containers beside the services: the health check and the jobs of docker-compose.yml.

Each file is a program of its own; none knows a service, and none is imported by one.
"""
