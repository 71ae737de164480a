"""The gateway: a reverse proxy for the services' HTTP requests and WebSockets, and the web page."""
