#!/usr/bin/env bash
# Asks a real node everything that its OpenAPI document promises, and much that it forbids: no server error, and every answer's
# status, media type and body as documented. `./check api` runs it, with schemathesis in the path; the requests are the same every time.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
binary=${CARGO_TARGET_DIR:-target}/debug/weft
[[ -x $binary ]] || cargo build --locked --quiet --bin weft || exit 1

folder=$(mktemp -d)
trap 'kill "$node" 2>/dev/null; wait "$node" 2>/dev/null; rm -rf "$folder"' EXIT
"$binary" serve --data-dir "$folder/data" --http-listen 127.0.0.1:0 --grpc-listen off >"$folder/out" 2>"$folder/log" &
node=$!

# A debug build on a busy machine may take its time; a node that ended never becomes ready.
for _ in $(seq 600); do
  grep -q '^weft ready' "$folder/out" && break
  kill -0 "$node" 2>/dev/null || break
  sleep 0.1
done
address=$(sed -nE 's/^weft ready.*\bhttp=([^ ,]+).*/\1/p' "$folder/out")
address=${address##*/}
if [[ -z $address ]]; then
  echo "the node did not become ready:"
  cat "$folder/out" "$folder/log"
  exit 1
fi

# Streams never end, so they are not asked for; a request is given more time than the longest poll that the document allows.
schemathesis run "http://$address/openapi.json" \
  --phases examples,coverage,fuzzing \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --exclude-path-regex '/(stream|watch|ws)$' \
  --max-examples "${WEFT_API_EXAMPLES:-20}" \
  --generation-deterministic \
  --generation-database none \
  --request-timeout 70 \
  --continue-on-failure \
  --no-color
outcome=$?
if ! kill -0 "$node" 2>/dev/null; then
  echo "the node died of it:"
  tail -n 40 "$folder/log"
  outcome=1
fi
if grep -n 'panicked at' "$folder/log"; then
  outcome=1
fi
exit "$outcome"
