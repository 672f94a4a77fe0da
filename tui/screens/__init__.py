"""What can fill the terminal: the dashboard, and what opens over it."""
