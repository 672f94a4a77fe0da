"""Every fault that the demo can cause, in one table: what was broken, what the screen said, what was lost (nothing)."""
