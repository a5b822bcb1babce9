#!/bin/bash
# Trains on a spot TPU slice until the run is complete: requests the slice again whenever it is taken
# away. The workdir is in a bucket, since the disks go with the slice. NOT YET RUN on TPUs: only
# checked with shellcheck, and against a stand-in for gcloud.
#
#   ZONE=us-central2-b TYPE=v4-16 VERSION=tpu-ubuntu2204-base \
#     examples/tpu/spot.sh my-slice --config=clac_paper --workdir=gs://bucket/exp [FLAGS]
#
# It installs the checkout of the repository that it is in, as a wheel that it makes first. Otherwise
# WHEEL=FILE.whl names a wheel on this machine, or SETUP=COMMAND installs clac-jax in some other way,
# into ./clac on each host.
#
# Run it where it can stay, in tmux say; stopping it leaves the slice as it is.
set -euo pipefail

name=$1
shift
workdir=
for flag in "$@"; do
  case $flag in --workdir=gs://*) workdir=${flag#--workdir=} ;; esac
done
: "${workdir:?add --workdir=gs://BUCKET/FOLDER}" "${ZONE:?}" "${TYPE:?}" "${VERSION:?}"
pause=${PAUSE_SECONDS:-60}

wheel=
if [ -z "${SETUP:-}" ]; then
  wheel=${WHEEL:-}
  if [ -z "$wheel" ]; then
    folder=$(mktemp -d)
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$(dirname "$0")/../.."
    wheel=$(echo "$folder"/clac_jax-*.whl)
  fi
  [ -f "$wheel" ] || { echo "There is no wheel $wheel." >&2; exit 1; }
  SETUP="python3 -m venv clac && clac/bin/pip install --quiet './$(basename "$wheel")[tpu,gcs]'"
fi

slices() { gcloud compute tpus queued-resources "$@" --zone="$ZONE" --quiet; }
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker=all --command="$1"; }
install() {
  if [ -n "$wheel" ]; then
    gcloud compute tpus tpu-vm scp "$wheel" "$name:" --zone="$ZONE" --worker=all --quiet || return
  fi
  on_all_hosts "$SETUP"
}
state() { slices describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE; }

# On every host: `clac-jax run` starts it again after crashes and hangs, for which the slice stays.
printf -v train ' %q' "$@"
train="clac/bin/clac-jax run -- train$train"

while true; do
  now=$(state)
  echo "$(date '+%F %T') $name: $now"
  case $now in
    NONE)
      slices create "$name" --node-id="$name" --accelerator-type="$TYPE" \
        --runtime-version="$VERSION" --spot
      ;;
    ACTIVE)
      install && on_all_hosts "$train" && break
      sleep "$pause"
      if [ "$(state)" = ACTIVE ]; then
        echo "The training has failed on a slice that is still there; its message is above." >&2
        exit 1
      fi
      ;;
    SUSPENDED | FAILED) slices delete "$name" --force ;;  # it was taken away, or never came
    *) sleep "$pause" ;;  # waiting for it, or for the end of a deletion
  esac
done
slices delete "$name" --force
echo "The run in $workdir is complete."
