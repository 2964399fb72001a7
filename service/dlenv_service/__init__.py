"""The serving half: an ASGI application with its own batcher and engine, and the Ray Serve deployment around it.

Only the modules that place it on Ray import ray (``app``, ``desired``, ``existing``, ``serve_fixes``, and ``cluster``
once it starts one); everything that answers a request runs under any ASGI server.
"""
