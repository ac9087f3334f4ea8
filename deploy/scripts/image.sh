#!/usr/bin/env bash
# The container image as an OCI archive, without a container engine: image.sh [OUT] [TAG]
#
#   deploy/scripts/image.sh                            target/image/lockgate.tar, lockgate:dev
#   PROFILE=dev deploy/scripts/image.sh                of a debug build, for tests
#   PROGRAMS="a b" deploy/scripts/image.sh             of programs that are built already
#
# It has what deploy/Dockerfile has: the two programs, the C library, CA roots, a numeric user. The
# C library is this machine's. The same programs and libraries give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${1:-target/image/lockgate.tar}
tag=${2:-lockgate:dev}
profile=${PROFILE:-release}

if [ -z "${PROGRAMS:-}" ]; then
    cargo build --profile "$profile" --locked --bin lockgate --bin lockgate-operator
    folder=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
    PROGRAMS="$folder/lockgate $folder/lockgate-operator"
fi
# shellcheck disable=SC2086 # a list of paths without spaces
python3 deploy/scripts/oci.py --out "$out" --tag "$tag" $PROGRAMS
