"""Solvers, one file each, and the parts that they are made of."""
