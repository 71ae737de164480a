"""Endpoints, signing and sending of webhooks, and the upload hook: what upload and live share."""
