#!/bin/sh
# JupyterLab with the course's notebooks in /notebooks, for compose.yaml's profile `notebooks`.
set -eu

folder=/notebooks/d2l-$COURSE
if [ ! -d "$folder" ]; then
  # A course without its notebooks is still an environment: say so, and go on. The next start tries again.
  dlenv notebooks fetch --course "$COURSE" --notebooks "$folder" ${NOTEBOOKS_MIRROR:+--mirror "$NOTEBOOKS_MIRROR"} \
    || echo "The course's notebooks could not be fetched, so JupyterLab starts without them. Put an archive of them in" \
      "the work directory and run: docker compose exec notebooks dlenv notebooks fetch --notebooks $folder --from" \
      "/notebooks/ARCHIVE" >&2
fi

# Jupyter makes a token and shows it with its address, unless the secret has one. It listens on the port that is published,
# so that the address which it shows is the one to open.
if [ -s /run/secrets/notebooks_token ]; then
  # Not JUPYTER_TOKEN_FILE: Jupyter takes the line's end for a part of the token.
  JUPYTER_TOKEN=$(cat /run/secrets/notebooks_token)
  export JUPYTER_TOKEN
fi
exec dlenv lab --env /opt/course --notebooks /notebooks --no-browser --port "${NOTEBOOKS_PORT:-8888}" -- \
  --ip=0.0.0.0 --ServerApp.port_retries=0
