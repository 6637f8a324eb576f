"""Soak: constant load for as long as one likes, faults one after another, and a worker that lives from start to end.

    run.py        the run: load, faults drawn from the seed, quiet between them
    samples.py    every few seconds: memory, descriptors, tasks, connections, queue
    verdict.py    whether what was sampled stays flat
    report.py     the run as JSON, and its part of docs/chaos.md
    picture.py    the run as a picture

What leaks does not show in the minute that a fault is played for.
"""
