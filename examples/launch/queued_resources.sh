#!/usr/bin/env bash
# Request a TPU, train on it as soon as Google has one, and request another when it is preempted.
#
#   export PROJECT=my-project ZONE=us-west4-a TPU=resnet TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#   export REPOSITORY=THE-URL-OF-THIS-REPOSITORY
#   examples/launch/queued_resources.sh --config=configs/imagenet.py --workdir=gs://BUCKET/imagenet
#
# SLICES=2 requests two slices of this type, and OPTIONS="--spot" adds options of `gcloud ... queued-resources create`.
# Run this in tmux on a machine that stays on. Ctrl-C or SIGTERM makes the run save and end. The TPU is deleted when the
# run is done; after an error or a signal it is kept.
set -u
: "${PROJECT:?}" "${ZONE:?}" "${TPU:?}" "${TYPE:?}" "${VERSION:?}" "${REPOSITORY:?}"

queue() { # Call the command $1 of `gcloud compute tpus queued-resources` for this TPU, with further options.
  gcloud compute tpus queued-resources "$1" "$TPU" "--project=$PROJECT" "--zone=$ZONE" "${@:2}"
}

request() {
  local nodes=("--node-id=$TPU")
  [ "${SLICES:-1}" = 1 ] || nodes=("--node-count=$SLICES" "--node-prefix=$TPU")
  # shellcheck disable=SC2086  # OPTIONS are several words.
  queue create "--accelerator-type=$TYPE" "--runtime-version=$VERSION" "${nodes[@]}" ${OPTIONS:-}
}

state() { queue describe "--format=value(state.state)" 2>/dev/null; }

delete() { queue delete --force --quiet; }

on_all_workers() { queue ssh --node=all --worker=all --batch-size=all "--command=$1"; }

install() {
  on_all_workers "
    sudo apt-get update -qq && sudo apt-get install -y -qq python3.11-venv &&
    { [ -d resnet-jax ] || git clone ${REPOSITORY@Q} resnet-jax; } && cd resnet-jax &&
    python3.11 -m venv .venv && .venv/bin/pip install --quiet 'jax[tpu]' -r requirements.txt"
}

train() { on_all_workers "cd resnet-jax && . .venv/bin/activate && exec python main.py ${flags[*]@Q}"; }

stop() {
  stopped=1
  on_all_workers "pkill -TERM -o -f '^python main.py'"
}

wait_for_tpu() {
  while [ "$stopped" = 0 ]; do
    case $(state) in
      ACTIVE) return ;;
      "") request || exit ;;
      SUSPENDED) delete || exit ;; # It was preempted, and will not become active again.
      FAILED)
        queue describe
        exit 1
        ;;
    esac
    sleep "${POLL_SECONDS:-60}"
  done
  exit 75
}

flags=("$@") stopped=0
trap stop INT TERM
for attempt in {1..50}; do
  wait_for_tpu
  echo "Attempt $attempt on $TPU ..." >&2
  { install && train; } & # In the background, because a signal is only handled between commands and during `wait`.
  wait $!
  code=$?
  [ "$stopped" = 0 ] || { wait $!; code=$?; } # The signal interrupted `wait`.
  case $code in
    0)
      delete
      exit
      ;;
    75 | 134 | 137 | 143 | 255) [ "$stopped" = 0 ] || exit "$code" ;; # Another attempt can help.
    *) exit "$code" ;;
  esac
done
exit "$code"
