#!/bin/bash
# Trains on a TPU slice that exists, on all of its hosts, and returns when the run has ended. NOT YET
# RUN on TPUs: only checked with shellcheck.
#
#   ZONE=us-central2-b examples/tpu/pod.sh my-slice --config=clac_paper --workdir=gs://bucket/exp
#
# Run again, it resumes. The hosts find each other, so that nothing else needs to be set.
set -euo pipefail

name=$1
shift
printf -v train ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$name" --zone="${ZONE:?}" --worker=all \
  --command="clac/bin/clac-jax run -- train$train"
