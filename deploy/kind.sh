#!/usr/bin/env bash
# The chart's profile without GPU on a cluster of kind, for a machine that has docker, kind, kubectl and helm:
#   make images && deploy/kind.sh
# With a cluster that has GPUs, skip kind: push the images, put a repository (slimsched export --device gpu) into a
# volume, and install the chart with your own values.
set -euo pipefail
cd "$(dirname "$0")/.."
cluster=slim-scheduler

kind get clusters | grep -qx "$cluster" || kind create cluster --name "$cluster"
for target in gateway controller embedded; do
  kind load docker-image --name "$cluster" "slim-scheduler/$target:0.1.0"
done
docker exec "$cluster-control-plane" mkdir -p /srv/models
docker cp model_repository/. "$cluster-control-plane:/srv/models"
docker exec "$cluster-control-plane" chmod -R a+rX /srv/models
helm upgrade --install demo deploy/helm/slim-scheduler --kube-context "kind-$cluster" --wait --timeout 10m \
  --values deploy/helm/slim-scheduler/ci/cpu.yaml
helm test demo --kube-context "kind-$cluster"
echo "kubectl --context kind-$cluster port-forward service/demo-slim-scheduler-gateway 8081 8080"
