"""The wire contract of a message: what surrounds the events, which `contract.py` describes. Loads no library."""

MESSAGE_BYTES_MAX = 1024 * 1024
MESSAGE_EVENTS_MAX = 1000

CONTENT_TYPE_JSON = "application/json"
CONTENT_TYPE_CLOUDEVENT = "application/cloudevents+json"
CONTENT_TYPE_CLOUDEVENTS_BATCH = "application/cloudevents-batch+json"
