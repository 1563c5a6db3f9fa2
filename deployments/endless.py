"""How often Serve may try to start a replica before it gives up its deployment for ever: as good as always.

Serve takes the smaller of a deployment's `max_constructor_retry_count` and its replicas times
RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT (3, if nobody sets it), so both are set. When to stop is for our brakes to say.
"""

ENDLESS = 1_000_000
