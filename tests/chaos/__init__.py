"""Chaos: producers, workers and servers as processes, a proxy between each pair, everything broken while events flow.

    stage.py      what is played on: servers, proxies, producers, workers
    registry.py   a fault: one small function that breaks something and mends it again; they stand in faults/, by kind
    run.py        one run: load, faults at seeded instants, the seconds until events flow again, the books
    ledger.py     what the producers had confirmed against what the database holds, event by event
    report.py     runs as lines of JSON, and the table made of them
    soak/         an hour of it: load, faults one after another, and whether memory and connections stay flat

`make chaos` plays for 15 minutes what chance draws; `make chaos-full` plays every fault and writes the tables into
docs/chaos.md and README.md; `CHAOS_SEED=…` plays a run again.
"""
