"""A day of polling in minutes, or a few minutes of it in seconds: nothing grows, nothing is left."""
