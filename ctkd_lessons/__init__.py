"""Reference implementations for the course "Cross-task knowledge distillation".

Importing the package loads nothing heavy: each module imports what it needs.
"""

__version__ = "0.1.0"
