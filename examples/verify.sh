#!/bin/sh
# Verifies one request by hand: WEBHOOK_SECRET=… verify.sh TIMESTAMP SIGNATURE < body
# For looking into a case, not for a server: the secret is seen in the list of processes while openssl runs.
set -eu
timestamp=$1 signature=$2
off=$(($(date +%s) - timestamp))
digest=$({ printf %s "$timestamp"; cat; } | openssl dgst -sha256 -hmac "$WEBHOOK_SECRET" | sed 's/^.* //')
[ "sha256=$digest" = "$signature" ] || { echo 'another secret, or another body' >&2; exit 1; }
[ "${off#-}" -le 300 ] || { echo "verified, but the timestamp is $off s off" >&2; exit 1; }
echo verified
