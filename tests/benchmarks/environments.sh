#!/bin/bash
# Virtual environments for the peers, under a folder: bash tests/benchmarks/environments.sh FOLDER [PYTHON]
# `peers` holds this package too, so that ours and theirs share a process. gReLU and seqdata pin what others need newer.
set -u
folder=$(realpath -m "${1:?say where to put the environments}") python=${2:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
make() { # name, then what pip installs, one step per argument
  local name=$1; shift
  [ -x "$folder/$name/bin/python" ] || "$python" -m venv "$folder/$name" || return
  for step in "$@"; do eval "'$folder/$name/bin/pip' install --quiet $step" || { echo "$name: '$step' does not install; its peers will be absent"; return; }; done
  echo "$name: ready"
}
make peers "--upgrade pip" "-e '$root'" "seqpro tangermeme genvarloader pybigtools pysam pyfaidx memelite captum bpnet-lite"
make grelu "--upgrade pip" "torch gReLU"
# pybedtools, which seqdata needs, is built from source and does not say that this takes setuptools
make seqdata "'setuptools<75' wheel cython 'numpy<2'" "--no-build-isolation 'setuptools<75' pybedtools" "'setuptools<75' seqdata torch"
echo "now: EUGENE_BENCH_ENVS=$folder make bench"
