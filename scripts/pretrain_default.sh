#!/usr/bin/env bash
# Retrains the policy that ships with the package (hyprl_jax/pretrained/default) on the shipped collections.
#   scripts/pretrain_default.sh [RUN]        RUN is where the run goes, by default runs/pretrained
# A cold start in every episode, so that it works in search spaces that no collection contains; the tasks of
# fold 0 are held out. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/pretrained}
hyprl=("${PYTHON:-.venv/bin/python}" -m hyprl_jax)
"${hyprl[@]}" train --collections mlp,svm,boosting --split kfold5 --fold 0 --seed 0,1 \
    --env.trials 40 --augment.candidates 160 \
    --learner.updates 60 --updates-per-chunk 10 --learner.episodes 1024 --validation-plays 4 \
    --surrogate.prior cold --surrogate.lengthscale 0.5 --surrogate.encoding-variance 1.0 \
    --surrogate.noise 0.1 --surrogate.gain-weight 0 --surrogate.no-tune \
    --out "$run"
rm -rf "$run/export/default"
"${hyprl[@]}" export "$run" --out "$run/export/default" --name default --licence Apache-2.0
rm -rf hyprl_jax/pretrained/default
mkdir -p hyprl_jax/pretrained
cp -r "$run/export/default" hyprl_jax/pretrained/default
echo "hyprl_jax/pretrained/default is the new default policy"
