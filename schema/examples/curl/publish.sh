#!/bin/sh
# One message of usage events through the HTTP API of RabbitMQ's management plugin, with curl.
#
#   sh publish.sh < event.json
#
# The file is an event, or an array of up to 1,000, each with its id. One try: exit status 0 means that RabbitMQ has
# confirmed it, any other that it may not have arrived. Run it again with the same file: the ids make the copies count once.
# For a few events by hand or from a script; the HTTP API opens a channel for each call and is not made for more.
set -eu

api=${USAGE_MANAGEMENT_URL:-http://127.0.0.1:15672}
user=${USAGE_MANAGEMENT_USER:-guest}
password=${USAGE_MANAGEMENT_PASSWORD:-guest}
vhost=${USAGE_VHOST:-%2F} # percent-encoded
exchange=${USAGE_EXCHANGE:-usage}

say() { printf 'usage: %s\n' "$*" >&2; }

# Base64 carries any text without quoting.
payload=$(base64 | tr -d '\n')
if [ -z "$payload" ]; then
  say "nothing on standard input: give it an event"
  exit 2
fi

login=$(printf '%s:%s' "$user" "$password" | sed 's/[\\"]/\\&/g') # quoted for curl's configuration

# The API publishes with mandatory and waits for the broker's confirmation; `routed` says whether a queue has it.
# The password goes through a configuration, or other users of this machine could read it.
answer=$(
  curl --silent --show-error --fail-with-body --max-time 15 \
    --config /dev/fd/3 --header 'Content-Type: application/json' --data-binary @- \
    "$api/api/exchanges/$vhost/$exchange/publish" 3<<CONFIG <<BODY
user = "$login"
CONFIG
{"properties": {"content_type": "application/json", "delivery_mode": 2, "app_id": "curl-example"},
 "routing_key": "usage.recorded", "payload_encoding": "base64", "payload": "$payload"}
BODY
) || {
  say "not confirmed: $answer"
  exit 1
}

case $answer in
  *'"routed":true'*) ;;
  *'"routed":false'*)
    say "not sent: no queue is bound to exchange $exchange; start a worker"
    exit 1
    ;;
  *)
    say "not confirmed: RabbitMQ answered $answer"
    exit 1
    ;;
esac
