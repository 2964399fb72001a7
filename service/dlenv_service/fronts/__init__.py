"""Fronts: processes that read and answer HTTP for the one that owns the device.

One Python process parses some ten thousand requests a second, and a GPU answers many times that. A front takes
connections, checks requests and gathers their rows; what has gathered goes to the main process as one piece, through
memory that both share, and comes back as one. So the hop is paid once for a batch, not for a request. Everything but
inference (health, metadata, management, metrics, images) is passed on to the main process as it is.
"""
