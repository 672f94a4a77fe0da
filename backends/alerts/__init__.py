"""Telling somebody: what is worth a message, when it is sent, and through whom."""
