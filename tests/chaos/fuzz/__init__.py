"""Fuzzing of decode → merge: a million damaged messages, each held against a second reading of the contract.

`source.py` makes inputs, `check.py` holds what the decoder makes of them against `reference.py`, `books.py` what the
database holds after each batch. `python -m chaos.fuzz --help` (with PYTHONPATH=tests).
"""
