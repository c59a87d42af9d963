#!/usr/bin/env bash
# Request a TPU, train on it as soon as Google has one, and request another when it is preempted.
#
#   ssh-add ~/.ssh/google_compute_engine    # if the TPU consists of several machines
#   export PROJECT=my-project ZONE=us-west4-a TPU=resnet TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#   export REPOSITORY=THE-URL-OF-THIS-REPOSITORY
#   examples/launch/queued_resources.sh --config=configs/cifar10.py --workdir=gs://BUCKET/cifar10
#
# SLICES=2 requests two slices of this type. OPTIONS="--spot" adds options of `gcloud ... queued-resources create`.
# SETUP="..." are commands that prepare each machine after the installation, such as mounting a disk with the data. They
# run before every attempt, so they must also succeed a second time: "mountpoint -q /data || sudo mount ...".
# Run this in tmux on a machine that stays on. Ctrl-C or SIGTERM makes the run save and end. The TPU is deleted when the
# run is done; after an error or a signal it is kept.
set -u
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: $0 needs bash 4.4 or later. On macOS, run: brew install bash" >&2
  exit 2
fi
: "${PROJECT:?}" "${ZONE:?}" "${TPU:?}" "${TYPE:?}" "${VERSION:?}" "${REPOSITORY:?}"

DONE="The run is done."

queue() { # Call the command $1 of `gcloud compute tpus queued-resources` for this TPU, with further options.
  gcloud compute tpus queued-resources "$1" "$TPU" "--project=$PROJECT" "--zone=$ZONE" "${@:2}"
}

state() { # Print the state of the TPU, NONE if there is none, or nothing if gcloud cannot tell.
  local output
  if output=$(queue describe "--format=value(state.state)" 2>&1); then
    echo "${output##*$'\n'}"
  elif [[ $output == *NOT_FOUND* ]]; then
    echo NONE
  else
    echo "$output" >&2
  fi
}

request() {
  local nodes=("--node-id=$TPU")
  [ "${SLICES:-1}" = 1 ] || nodes=("--node-count=$SLICES" "--node-prefix=$TPU")
  # shellcheck disable=SC2086  # OPTIONS are several words.
  queue create "--accelerator-type=$TYPE" "--runtime-version=$VERSION" "${nodes[@]}" ${OPTIONS:-}
}

delete() { queue delete --force --quiet; }

on_all_workers() {
  queue ssh --node=all --worker=all --batch-size=all --ssh-flag="-o ServerAliveInterval=30" "--command=$1"
}

install() {
  on_all_workers "
    sudo apt-get -o DPkg::Lock::Timeout=600 update -qq &&
    sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq python3.11-venv &&
    if [ -d resnet-jax ]; then git -C resnet-jax pull --quiet --ff-only; else git clone ${REPOSITORY@Q} resnet-jax; fi &&
    cd resnet-jax &&
    python3.11 -m venv .venv && .venv/bin/pip install --quiet 'jax[tpu]' -r requirements.txt &&
    ${SETUP:-true}"
}

train() { # Return the exit code of the run, or 255 if it cannot be known. gcloud returns 0 if it reaches no machine.
  on_all_workers "
    while pkill -TERM -o -f '^python main.py'; do sleep 1; done # It may have outlived a lost connection.
    cd resnet-jax && . .venv/bin/activate && python main.py ${flags[*]@Q}
    code=\$?; [ \$code = 0 ] && echo '$DONE'; exit \$code" | tee >(cat >&2) | grep "$DONE" >/dev/null
  local codes=("${PIPESTATUS[@]}")
  [ "${codes[0]}" = 0 ] || return "${codes[0]}"
  [ "${codes[2]}" = 0 ] || return 255
}

stop() {
  stopped=1
  on_all_workers "pkill -TERM -o -f '^python main.py'"
}

wait_for() { # Call $1 in the background and wait, because a signal is handled only between commands and in `wait`.
  "$1" &
  wait $!
  local code=$?
  [ "$stopped" = 0 ] || { wait $!; code=$?; } # The signal interrupted `wait`.
  return $code
}

wait_for_tpu() {
  while [ "$stopped" = 0 ]; do
    case $(state) in
      ACTIVE) return ;;
      NONE) request || exit ;;
      SUSPENDED) delete ;; # It was preempted, and will not become active again.
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
  wait_for install
  code=$?
  [ "$stopped" = 0 ] || exit 75
  if [ $code = 0 ]; then
    wait_for train
    code=$?
  fi
  [ "$stopped" = 0 ] || exit "$code"
  case $code in
    0)
      delete
      exit
      ;;
    75 | 134 | 137 | 143 | 255) ;; # Another attempt can help.
    *) [ "$(state)" != ACTIVE ] || exit "$code" ;; # Machines that are left of a TPU report other codes.
  esac
  sleep "${POLL_SECONDS:-60}"
done
exit "$code"
