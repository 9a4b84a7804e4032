#!/bin/sh
# Verifies one request by hand: WEBHOOK_SECRET=… verify.sh TIMESTAMP SIGNATURE < body
# For debugging, not for a server: the secret is visible in the process list while openssl runs.
set -eu
timestamp=$1 signature=$2
off=$(($(date +%s) - timestamp))
digest=$({ printf %s "$timestamp"; cat; } | openssl dgst -sha256 -hmac "$WEBHOOK_SECRET" | sed 's/^.* //')
[ "sha256=$digest" = "$signature" ] || { echo 'not verified: the secret or the body does not match' >&2; exit 1; }
[ "${off#-}" -le 300 ] || { echo "verified, but the timestamp is $off s from the current time" >&2; exit 1; }
echo verified
