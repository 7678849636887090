#!/usr/bin/env bash
# Makes what the secured set-up mounts, in compose/secrets/: a private CA, the broker's certificate, the users' passwords.
# What is there stays as it is, but a certificate that ends within 30 days is replaced: start the broker anew then.
set -euo pipefail
umask 077
unset CDPATH
mkdir -p "$(dirname "$0")/secrets"
cd "$(dirname "$0")/secrets"
chmod 700 .
trap 'rm -f ./*.csr broker.key broker.crt' EXIT

# Says what openssl says if it fails, and nothing otherwise.
quietly() {
  local said
  said=$(openssl "$@" 2>&1) || { echo "openssl $1 fails in $PWD: $said"; exit 1; }
}

key_and_request() { # NAME SUBJECT
  quietly req -new -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$2"
}

extensions() { printf '%s\n' subjectKeyIdentifier=hash "$@"; }

if [[ ! -f ca.crt ]]; then
  key_and_request ca "Private CA of streaming-fraud-detection"
  quietly x509 -req -in ca.csr -signkey ca.key -days 3650 -out ca.crt \
    -extfile <(extensions basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign,cRLSign)
fi

# One for all brokers. One of an earlier version has fewer names.
if ! openssl x509 -in broker.pem -noout -checkend $((30 * 24 * 3600)) &>/dev/null ||
  ! openssl x509 -in broker.pem -noout -text | grep -q DNS:broker-3; then
  key_and_request broker broker
  # The names by which clients know them: in the network, and on the host.
  quietly x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 397 -out broker.crt \
    -extfile <(extensions authorityKeyIdentifier=keyid basicConstraints=critical,CA:FALSE \
      keyUsage=critical,digitalSignature,keyEncipherment extendedKeyUsage=serverAuth \
      subjectAltName=DNS:broker,DNS:broker-2,DNS:broker-3,DNS:localhost)
  cat broker.key broker.crt >broker.pem
  echo "Made a certificate for the broker, valid for 397 days, in $PWD"
fi

for user in generator detector smurfing alerter dashboard attack redrive; do
  [[ -s $user-password ]] || openssl rand -hex 24 >"$user-password"
done

# Read in the containers by users that have other numbers there; on this machine the folder keeps everybody out.
chmod 644 ca.crt broker.pem ./*-password
chmod a+r ../users.sh
