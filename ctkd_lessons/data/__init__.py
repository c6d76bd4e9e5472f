"""The data sets of the course. Nothing is downloaded; every generator is drawn from a seed."""
