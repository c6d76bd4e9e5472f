"""Grading a class: sandbox, marks, nbgrader's gradebook, report."""
