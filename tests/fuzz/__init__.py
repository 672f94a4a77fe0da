"""What comes from outside may be anything: nothing but our own errors comes of it, in bounded time and memory."""
