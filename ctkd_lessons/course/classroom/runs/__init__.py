"""A class graded side by side: workers, journal, resuming, replaying."""
