"""The gRPC server: ``edgerank serve``.

app         what starts, stops and reloads
interceptor who may call, and what every call is counted and answered with
service     edgerank.v1 and tei      the wire formats, translated
inference   one request: limits, tokens, a place in the queue
scheduler   the engine's thread: micro-batches of all requests, each a job
fairness    whose micro-batch is next
"""
