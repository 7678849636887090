#!/usr/bin/env bash
# Starts a composition, and waits until each of its containers does its work. Called by `make`:
#   compose/start.sh "docker compose -f docker-compose.yml" --build
set -euo pipefail
compose=$1
shift

# Names the variable of each port that a program other than ours has, for a message of Docker's that does not.
explain() {
  for file in $(grep -oE -- '-f [^ ]+' <<<"$compose" | cut -c 4-); do
    for port in $(grep -oE '[A-Z_0-9]+:-[0-9]+\}:[0-9]+"$' "$file" | sed 's/}.*//'); do
      name=${port%:-*} number=${port#*:-}
      number=${!name:-$number}
      (: <"/dev/tcp/127.0.0.1/$number") 2>/dev/null || continue
      [[ $(docker ps --quiet --filter "publish=$number" --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME") ]] ||
        echo "Port $number of this machine is taken: end what has it, or give another port, such as make $name=$((number + 1)) up"
    done
  done
}

state() { docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$1"; }

# Whether a container does its work: by its health check, at once and not just every 15 seconds. What has none is a job,
# which is to end.
works() {
  local check=() word
  while IFS= read -r word; do
    [[ -z $word ]] || check+=("$word")
  done < <(docker inspect -f '{{with .Config.Healthcheck}}{{range .Test}}{{println .}}{{end}}{{end}}' "$1")
  case ${check[0]:-} in
    CMD) docker exec "$1" "${check[@]:1}" ;;
    CMD-SHELL) docker exec "$1" sh -c "${check[1]}" ;;
    *) false ;;
  esac &>/dev/null || [[ $(state "$1") == "exited 0" ]]
}

echo "$compose up -d $*"
$compose up -d "$@" || { explain; exit 1; }

echo "Waiting until it works ..."
SECONDS=0
# The other composition has the same project: the services have to be named.
for id in $($compose ps -aq $($compose config --services)); do
  until works "$id"; do
    case $(state "$id") in
      *" 2") ;; # the configuration is wrong: no further attempt will mend that
      *) ((SECONDS > 600)) || { sleep 1; continue; } ;;
    esac
    name=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}}' "$id")
    echo "The $name does not run, it is $(docker inspect -f '{{.State.Status}}' "$id"). Its last line: $(docker logs --tail 1 "$id" 2>&1)"
    exit 1
  done
done
