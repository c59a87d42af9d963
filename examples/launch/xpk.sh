#!/usr/bin/env bash
# Train on TPU slices of a GKE cluster with xpk, which starts the run again after errors that another attempt can fix.
#
#   export PROJECT=my-project ZONE=us-west4-a CLUSTER=my-cluster IMAGE=us-docker.pkg.dev/my-project/resnet/resnet-jax
#   docker build -t $IMAGE -f examples/launch/Dockerfile . && docker push $IMAGE
#   examples/launch/xpk.sh v5litepod-16 2 --config=configs/cifar10.py --workdir=gs://BUCKET/cifar10
#
# The first two arguments are the type of a slice and the number of slices. OPTIONS="--spot" adds options of
# `xpk workload create`; with OPTIONS=--dry-run, it prints what it would do.
set -u
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: $0 needs bash 4.4 or later. On macOS, run: brew install bash" >&2
  exit 2
fi
: "${PROJECT:?}" "${ZONE:?}" "${CLUSTER:?}" "${IMAGE:?}"
if [ $# -lt 3 ]; then
  echo "usage: $0 TYPE SLICES FLAGS_OF_MAIN" >&2
  exit 2
fi

flags=("${@:3}")
# `exec`, because xpk passes SIGTERM on only to the process that it starts.
# shellcheck disable=SC2086  # OPTIONS are several words.
xpk workload create "--workload=${WORKLOAD:-resnet}" "--project=$PROJECT" "--zone=$ZONE" "--cluster=$CLUSTER" \
  "--docker-image=$IMAGE" "--tpu-type=$1" "--num-slices=$2" --max-restarts=50 --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=180 "--command=exec python main.py ${flags[*]@Q}" ${OPTIONS:-}
