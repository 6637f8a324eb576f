"""The spool's tables, and the longer statements.

Positions grow by one with each event and are never given twice, so what is held is the newest position less what has
been settled: nothing is counted, and recording writes one page. A lease is a range of positions with its owner's name.
"""

SCHEMA = """
CREATE TABLE spool_events (position INTEGER PRIMARY KEY, end_bytes INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE TABLE spool_settled (
    events INTEGER NOT NULL, bytes INTEGER NOT NULL, last_position INTEGER NOT NULL, last_end_bytes INTEGER NOT NULL
);
CREATE TABLE spool_leases (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, owner TEXT NOT NULL,
    events INTEGER NOT NULL, bytes INTEGER NOT NULL
);
"""
# The newest position and the end of its bytes, also where its row is settled already.
NEWEST = """
SELECT max(last_position, coalesce(e.position, 0)) AS position,
    max(last_end_bytes, coalesce(e.end_bytes, 0)) AS end_bytes, s.events, s.bytes
FROM spool_settled s LEFT JOIN (SELECT position, end_bytes FROM spool_events ORDER BY position DESC LIMIT 1) e
"""
INSERT = f"""
INSERT INTO spool_events (position, end_bytes, frame)
SELECT position + 1, end_bytes + ?2, ?1 FROM ({NEWEST}) WHERE end_bytes + ?2 - bytes <= ?3
"""  # noqa: S608 - no value is put into the text
SETTLE = f"""
UPDATE spool_settled SET events = spool_settled.events + ?1, bytes = spool_settled.bytes + ?2,
    last_position = n.position, last_end_bytes = n.end_bytes FROM ({NEWEST}) n
"""  # noqa: S608 - no value is put into the text
