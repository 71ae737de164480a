"""How the services are started: as child processes, in containers, in Kubernetes."""
