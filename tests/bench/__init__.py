"""Budgets, measured through a pseudo-terminal as a person on SSH would have it; each beside its yardstick."""
