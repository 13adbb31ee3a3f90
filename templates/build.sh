#!/usr/bin/env bash
# Shows the file that each Flex Template would be, without touching a cloud: gcloud checks the metadata's form.
#   REGISTRY=REGION-docker.pkg.dev/PROJECT/mdmf BUCKET=gs://BUCKET/templates templates/build.sh
# PUBLISH=1 writes the files into the bucket instead. The images must be in the registry by then.
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v gcloud > /dev/null; then
  echo "make templates: gcloud is missing: https://cloud.google.com/sdk/docs/install" >&2
  exit 2
fi
REGISTRY=${REGISTRY:-REGION-docker.pkg.dev/PROJECT/mdmf}
BUCKET=${BUCKET:-gs://BUCKET/templates}
VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' ../mdmf_ops/__init__.py)
for pipeline in rescan stream; do
  for device in cpu gpu; do
    gcloud dataflow flex-template build "$BUCKET/$pipeline-$device.json" --image "$REGISTRY/$pipeline-$device:$VERSION" \
      --sdk-language PYTHON --metadata-file "$pipeline/metadata.json" $([ -n "${PUBLISH:-}" ] || echo --print-only)
  done
done
