"""What runs the course: exercises, checks, the command line, the tools of the authors."""
