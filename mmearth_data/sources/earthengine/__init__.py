"""Earth Engine as a source: the only code that contacts the service, through its own client.

`source` is the source itself. A failed request: `failures` decides what it means (429: `Throttled`), `session` sends it
again with the waits of `retry`, and `quota` pauses all requests while the service refuses too many. `quota`, `ledger`, `retry` and `estimate` do not use the client and can be imported
without it.
"""
