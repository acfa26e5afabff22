"""Earth Engine as a source: the only code that contacts the service, through its own client.

`source` is the source itself. `quota`, `ledger`, `retry` and `estimate` know nothing of the client and import without
it.
"""
