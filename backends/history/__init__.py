"""What happened: recorded in one SQLite file for each cluster, read again, and folded again for replay."""
