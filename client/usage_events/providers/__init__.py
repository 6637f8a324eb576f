"""From a provider's answer to an event: one module for each provider, and none of them imports an SDK.

    from usage_events.providers import openai

    event = openai.usage_event(response, user_id=user, organization_id=organization, endpoint="/v1/chat")

Each module has `usage_event` for a whole answer, `StreamUsage` to collect what a stream says while it runs, and
`usage_event_of_stream` for chunks that are there already. They take the SDK's objects or plain dicts (its JSON).

`input_tokens` and `output_tokens` are what the provider bills, caches and reasoning included; what they consist of
stands in `request_metadata`, under the same keys for all providers (`calls.METADATA_KEYS`).
"""
