#!/usr/bin/env bash
# The secured cluster's users, with the rights that each needs and no others. It can be run again: for a new password,
# or after a topic has been renamed.
set -euo pipefail
kafka() { "kafka-$1" --bootstrap-server localhost:9092 "${@:2}"; }

# The detector creates its output topics itself; the generator has no permission to create the input topic.
kafka topics --create --if-not-exists --topic "$TRANSACTIONS_TOPIC"

# A command's arguments can be seen by others on the machine, so the passwords are not in them.
for user in generator detector smurfing alerter dashboard attack redrive; do
  kafka configs --alter --entity-type users --entity-name $user \
    --add-config-file <(echo "SCRAM-SHA-512=password=$(<"/run/secrets/$user-password")")
done

# Read and Write include Describe.
kafka acls --add --allow-principal User:generator --operation Write --topic "$TRANSACTIONS_TOPIC"
kafka acls --add --allow-principal User:detector --operation Read --topic "$TRANSACTIONS_TOPIC" --group "$CONSUMER_GROUP"
# A --topic for each of the names.
kafka acls --add --allow-principal User:detector --operation Create --operation DescribeConfigs --operation Write \
  --topic ${OUTPUT_TOPICS// / --topic }
# Each instance has a transactional id of its own, the group's name and its host's.
kafka acls --add --allow-principal User:detector --operation Write \
  --transactional-id "$CONSUMER_GROUP-" --resource-pattern-type prefixed

# The services of compose/alerts.yml.
kafka acls --add --allow-principal User:smurfing --operation Read \
  --topic "$FRAUD_TOPIC" --topic "$CANDIDATES_TOPIC" --group smurfing-detector
kafka acls --add --allow-principal User:smurfing --operation Create --operation DescribeConfigs --operation Write \
  --topic "$CANDIDATES_TOPIC" --topic "$ALERTS_TOPIC"
kafka acls --add --allow-principal User:smurfing --operation Write \
  --transactional-id smurfing-detector- --resource-pattern-type prefixed
kafka acls --add --allow-principal User:alerter --operation Read --topic "$ALERTS_TOPIC" --group alerter

# Those who look on: the page and `make watch`.
kafka acls --add --allow-principal User:dashboard --operation Read \
  --topic "$TRANSACTIONS_TOPIC" --topic ${OUTPUT_TOPICS// / --topic } --topic "$ALERTS_TOPIC"
kafka acls --add --allow-principal User:dashboard --operation Describe \
  --group "$CONSUMER_GROUP" --group smurfing-detector --group alerter

# `make attack` writes rings, and looks for what becomes of them.
kafka acls --add --allow-principal User:attack --operation Write --topic "$TRANSACTIONS_TOPIC"
kafka acls --add --allow-principal User:attack --operation Read --topic "$CANDIDATES_TOPIC" --topic "$ALERTS_TOPIC"
kafka acls --add --allow-principal User:attack --operation Describe --group smurfing-detector --group alerter

# `make redrive` reads dead letters, and what they refer to. With FROM its group has more than this name.
kafka acls --add --allow-principal User:redrive --operation Read --topic "$DEAD_LETTER_TOPIC" --topic "$TRANSACTIONS_TOPIC"
kafka acls --add --allow-principal User:redrive --operation Write --operation DescribeConfigs --topic "$TRANSACTIONS_TOPIC"
kafka acls --add --allow-principal User:redrive --operation Read --group fraud-redrive --resource-pattern-type prefixed
kafka acls --add --allow-principal User:redrive --operation Write --transactional-id fraud-redrive
