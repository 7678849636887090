#!/usr/bin/env bash
# Looks into Kafka with its own tools. They run beside the broker, in a container of their own: their JVMs take none of the
# broker's memory, and end with whoever has called them. Called by `make`:
#   compose/look.sh BROKER topics              the topics, and how far CONSUMER_GROUP is
#   compose/look.sh BROKER consume [TOPIC [N]] a topic's records, up to N, or without end
#   compose/look.sh BROKER share N             how N detectors share the partitions of TRANSACTIONS_TOPIC
set -euo pipefail

# Runs in that container, which has the broker's loopback address.
look() {
  kafka=(--bootstrap-server localhost:9092)
  case $1 in
    topics)
      kafka-topics "${kafka[@]}" --describe --exclude-internal
      kafka-consumer-groups "${kafka[@]}" --describe --group "$CONSUMER_GROUP" --timeout 60000
      ;;
    consume)
      topics=$(kafka-topics "${kafka[@]}" --list --exclude-internal)
      # Kafka would create it.
      grep -qxF -- "$2" <<<"$topics" || { echo "There is no topic $2, but:" $topics; exit 1; }
      # What a terminal would obey, such as escape sequences, is shown as a replacement character each; UTF-8 stays legible.
      kafka-console-consumer "${kafka[@]}" --topic "$2" --isolation-level read_committed --from-beginning \
        "$PROPERTY" value.deserializer=org.apache.kafka.common.serialization.StringDeserializer ${3:+--max-messages "$3"} |
        LC_ALL=C sed -u -e 's/[\x00-\x08\x0b-\x1f\x7f]/�/g' -e 's/\xc2[\x80-\x9f]/�/g'
      ;;
    share)
      partitions=$(kafka-topics "${kafka[@]}" --describe --topic "$TRANSACTIONS_TOPIC" | grep -oE 'PartitionCount: *[0-9]+' | grep -oE '[0-9]+')
      echo "Detectors: $2, partitions of $TRANSACTIONS_TOPIC: $partitions."
      (($2 <= partitions)) || echo "So $(($2 - partitions)) of them idle until another one ends."
      ;;
  esac
}

broker=$1 what=$2
export CONSUMER_GROUP=${CONSUMER_GROUP:-fraud-detector} TRANSACTIONS_TOPIC=${TRANSACTIONS_TOPIC:-queueing.transactions}
[[ $what != consume ]] || set -- "$1" consume "${3:-$TRANSACTIONS_TOPIC}" "${4:-}"
[[ $what != consume || ${4:-1} =~ ^[1-9][0-9]{0,8}$ ]] || { echo "N is '$4': give it the number of records to print, or leave it out"; exit 1; }
[[ $broker ]] || { echo "No broker runs here: 'make up' first."; exit 1; }

image=$(docker inspect -f '{{.Config.Image}}' "$broker")
# Kafka 4's name for it; it warns of the other.
export PROPERTY=--formatter-property
[[ $image != *:7.* ]] || PROPERTY=--property
name=look-$$-$RANDOM
trap 'docker rm --force --volumes "$name" >/dev/null 2>&1' EXIT
trap exit INT TERM HUP
# In the background, so that the signals above are handled at once.
docker run --name "$name" --network "container:$broker" --memory 512m --pids-limit 256 --cap-drop ALL \
  --security-opt no-new-privileges --env CONSUMER_GROUP --env TRANSACTIONS_TOPIC --env PROPERTY --env KAFKA_HEAP_OPTS=-Xmx256m \
  --env KAFKA_JVM_PERFORMANCE_OPTS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" \
  --entrypoint bash "$image" -c "set -euo pipefail; $(declare -f look); look \"\$@\"" - "${@:2}" &
wait $!
