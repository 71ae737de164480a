"""The programs in containers that are not services: the health check and the jobs of docker-compose.yml.

Each file is copied into an image alone and imports no other file of this repository.
"""
