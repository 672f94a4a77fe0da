"""Simulated engines: what each real server answers, logs and counts."""
