"""The study's experiments, done again: parts of scripts/reproduce_study.py."""
