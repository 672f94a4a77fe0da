"""Engines: what answers prompts at an endpoint, how it is asked for its health, and how it is sent a prompt."""
