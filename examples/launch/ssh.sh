#!/usr/bin/env bash
# Train on machines that you reach by ssh, with one process on each, and wait for all of them.
#
#   examples/launch/ssh.sh "host1 host2" --config=configs/cifar10.py --workdir=/shared/run
#
# Run it in the repository, which all machines have at the same path, with its virtual environment in .venv. Ctrl-C or
# SIGTERM makes all processes save and end. The exit code is the largest of theirs, and 255 if a connection breaks.
set -u
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: $0 needs bash 4.4 or later. On macOS, run: brew install bash" >&2
  exit 2
fi
if [ $# -lt 2 ]; then
  echo "usage: $0 \"HOST1 HOST2 ...\" FLAGS_OF_MAIN" >&2
  exit 2
fi

read -ra hosts <<<"$1"
coordinator=${hosts[0]#*@}:${PORT:-8476}
flags=("${@:2}" "--coordinator=$coordinator" "--num_processes=${#hosts[@]}")

on() { # Run the command $2 on the host $1.
  ssh -n -o BatchMode=yes -o ServerAliveInterval=30 "$1" "$2"
}

stop() { # Send SIGTERM to the oldest process of the run on each host: with --restarts, that is the supervisor.
  for host in "${hosts[@]}"; do
    on "$host" "pkill -TERM -o -f '^python main.py .*--coordinator=$coordinator'" &
  done
}

trap stop INT TERM
processes=()
for index in "${!hosts[@]}"; do
  command="python main.py ${flags[*]@Q} --process_id=$index; exit \$?" # `exec` would hide death by a signal.
  on "${hosts[$index]}" "cd ${PWD@Q} && . .venv/bin/activate && $command" &
  processes+=($!)
done

largest=0
for process in "${processes[@]}"; do
  wait "$process"
  code=$?
  while kill -0 "$process" 2>/dev/null; do # A signal interrupted `wait`.
    wait "$process"
    code=$?
  done
  [ "$code" -le "$largest" ] || largest=$code
done
exit "$largest"
