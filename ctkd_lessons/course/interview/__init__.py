"""The interview bank and its practice."""
