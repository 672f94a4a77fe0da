"""Panes: each draws one slice of the snapshot and posts messages; no I/O, no clock of its own."""
