"""Arithmetic about models and memory: headers, what an engine will take, where it fits."""
