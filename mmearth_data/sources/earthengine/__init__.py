"""Earth Engine as a source: the only code that contacts the service, through its own client.

`source` is the source itself. `quota`, `ledger`, `retry` and `estimate` do not use the client and can be imported
without it.
"""
