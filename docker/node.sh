#!/bin/sh
# A node of a Ray cluster in a container, for compose.cluster.yaml:
#
#   node.sh head            the head: no models, the one address that clients ask; it deploys the service
#   node.sh worker HEAD     a node whose replicas run models
set -eu

role=$1
# Everybody who shows this token can run code on every node. A secret if there is one, else the head makes one and
# leaves it in a volume that only the cluster's containers have.
token=/run/secrets/ray_token
if [ ! -s "$token" ]; then
  token=/run/dlenv/ray_token
  if [ "$role" = head ] && [ ! -s "$token" ]; then
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"$token.new" && mv "$token.new" "$token")
  fi
  waited=0
  until [ -s "$token" ]; do
    if [ "$waited" = 50 ]; then
      echo "Waiting for the cluster's token: the head puts it into the volume at /run/dlenv; on another machine give the" \
        "head's as the secret /run/secrets/ray_token (DLENV_RAY_TOKEN_FILE in Compose)" >&2
    fi
    waited=$((waited + 1))
    sleep 0.2
  done
fi
if [ ! -r "$token" ]; then
  echo "Error: user $(id -u) can't read the cluster's token $token: run as its owner (DLENV_UID), or let that user read it" >&2
  exit 1
fi
export RAY_AUTH_TOKEN_PATH="$token"

# (The brackets keep grep from finding itself.)
replicas() { grep -lsa '[r]ay::ServeReplica' /proc/[0-9]*/cmdline >/dev/null; }

# Serve starts the replicas of a node that drains elsewhere before it ends them here, so that no request is lost. Where
# there is no room elsewhere, or the head has gone too, they end after this.
leave() {
  trap '' TERM INT
  if [ "$role" = worker ] && replicas; then
    echo "Leaving the cluster: its replicas move to other nodes" >&2
    timeout 20 ray drain-node --address "$RAY_ADDRESS" --reason DRAIN_NODE_REASON_PREEMPTION \
      --reason-message "the container stops" --deadline-remaining-seconds 60 >/dev/null 2>&1 || true
    for _ in $(seq 40); do replicas || break; sleep 1; done
  fi
  kill -TERM "$ray" 2>/dev/null || true
}

if [ "$role" = head ]; then
  export RAY_ADDRESS=127.0.0.1:6379
  set -- --head --port=6379 --num-cpus=0 --include-dashboard=false
else
  export RAY_ADDRESS="$2:6379"
  set -- --address="$RAY_ADDRESS"
fi
ray start "$@" --disable-usage-stats --block >/dev/null &
ray=$!
trap leave TERM INT

# Serve spreads replicas over the nodes that there are, and leaves them there: so wait for a node for each.
workers() {
  timeout 60 python -c '
import ray, sys, time
until = time.monotonic() + 30
wanted = int(sys.argv[2]) if sys.argv[2].isdigit() else 1  # what is no number, dlenv serve refuses
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
while (there := sum(node["Alive"] for node in ray.nodes()) - 1) < wanted and time.monotonic() < until:
    time.sleep(0.5)
if there < wanted:
    sys.exit(f"Workers: {there}, for {wanted} replicas (DLENV_REPLICAS). They go where there is room, and stay there: "
             "start more workers (--scale worker=N) and deploy again")
' "$RAY_ADDRESS" "${DLENV_REPLICAS:-1}" || true
}

if [ "$role" = head ]; then
  workers
  until dlenv serve --address auto; do
    kill -0 "$ray" 2>/dev/null || exit 1
    sleep 2
  done
fi
while kill -0 "$ray" 2>/dev/null; do wait "$ray" || status=$?; done
exit "${status:-0}"
