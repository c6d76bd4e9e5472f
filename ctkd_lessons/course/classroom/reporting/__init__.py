"""What an instructor reads: the report of a class and its table."""
