"""The serving half: an ASGI application with its own batcher and engine, and the Ray Serve deployment around it.

Only :mod:`dlenv_service.app` imports ray; everything else runs under any ASGI server.
"""
