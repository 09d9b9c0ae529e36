"""Measurements of the project's own claims. Results lie in `results/`, each with its machine, date and command."""
