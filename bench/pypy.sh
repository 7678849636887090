#!/bin/sh
# Makes a PyPy with the detector's requirements out of the image that the detector is built on, to run on the host:
#   sh bench/pypy.sh FOLDER && python -m bench throughput --pypy FOLDER/python
# A container would be as fast, but the benchmark could not see its processes. The image's own C library and loader come
# along, because the host's may be older than PyPy needs.
set -eu
image=${PYTHON_IMAGE:-pypy:3.11-slim}
requirements=$(cd "$(dirname "$0")/../detector" && pwd)/requirements.txt
mkdir -p "$1/tree" "$1/site"
folder=$(cd "$1" && pwd)
# The certificates and pip's settings are those of the host, for networks that have their own.
docker run --rm --network host -v "$requirements:/requirements.txt:ro" -v "$folder/site:/site" \
    -v /etc/ssl/certs:/etc/ssl/certs:ro \
    "$image" python -m pip install --quiet --root-user-action ignore --require-hashes --only-binary :all: \
    --upgrade --target /site -r /requirements.txt
container=$(docker create "$image")
docker export "$container" | tar -x -C "$folder/tree" usr
docker rm "$container" >/dev/null
interpreter=$(docker run --rm "$image" python -c 'import os, sys; print(os.path.realpath(sys.executable))')
libraries=$(cd "$folder/tree" && ls -d usr/lib/*-linux-gnu)
loader=$(cd "$folder/tree" && ls usr/lib*/ld-linux-*.so.* usr/lib/*/ld-linux-*.so.* 2>/dev/null | head -n 1)
cat >"$folder/python" <<EOF
#!/bin/sh
export PYTHONPATH="$folder/site"
exec "$folder/tree/$loader" --library-path "$folder/tree/$libraries" "$folder/tree/$interpreter" "\$@"
EOF
chmod +x "$folder/python"
"$folder/python" -c 'import crc32c, kafka, sys; print(sys.version)'
