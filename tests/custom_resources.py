"""What operators document of their own resources, as far as deploy/kubernetes uses it, and closed to the rest.

Sources: KEDA 2.18 to 2.20 (keda.sh: "ScaledObject specification", "Authentication", "RabbitMQ Queue", "Prometheus") and
the Prometheus Operator's API reference (prometheus-operator.dev: "monitoring.coreos.com/v1").
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
BOOLEAN_TEXT: Schema = {"enum": ["true", "false"]}  # metadata of triggers is text throughout
NUMBER_TEXT: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
DURATION: Schema = {"type": "string", "pattern": r"^(\d+(ms|[smhdwy]))+$"}


def closed(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": sorted(required),
        "additionalProperties": False,
    }


def some(items: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


def resource(api_version: str, kind: str, spec: Schema) -> Schema:
    """A whole manifest."""
    metadata = closed({"name": TEXT}, {"namespace": TEXT, "labels": {"additionalProperties": TEXT}})
    return closed({"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


def trigger(kind: str, metadata: Schema) -> Schema:
    """A trigger of a kind with its own metadata."""
    return closed(
        {"type": {"const": kind}, "metadata": metadata},
        {
            "name": TEXT,
            "metricType": {"enum": ["AverageValue", "Value"]},
            "useCachedMetrics": {"type": "boolean"},
            "authenticationRef": closed({"name": TEXT}, {"kind": TEXT}),
        },
    )


RABBITMQ = trigger(
    "rabbitmq",
    closed(
        {"queueName": TEXT, "mode": {"enum": ["QueueLength", "MessageRate"]}, "value": NUMBER_TEXT},
        {
            "host": {"type": "string", "pattern": "^(https?|amqps?)://"},
            "protocol": {"enum": ["auto", "http", "amqp"]},
            "activationValue": NUMBER_TEXT,
            "vhostName": TEXT,
            "excludeUnacknowledged": BOOLEAN_TEXT,
            "timeout": NUMBER_TEXT,
            "unsafeSsl": BOOLEAN_TEXT,
        },
    ),
)
PROMETHEUS = trigger(
    "prometheus",
    closed(
        {"serverAddress": {"type": "string", "pattern": "^https?://"}, "query": TEXT, "threshold": NUMBER_TEXT},
        {"activationThreshold": NUMBER_TEXT, "ignoreNullValues": BOOLEAN_TEXT, "timeout": TEXT, "authModes": TEXT},
    ),
)
SCALING_RULES = closed(
    {},
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "policies": some(
            closed(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        ),
    },
)
SCALED_OBJECT = closed(
    {
        "scaleTargetRef": closed({"name": TEXT}, {"apiVersion": TEXT, "kind": TEXT, "envSourceContainerName": TEXT}),
        "triggers": some({"anyOf": [RABBITMQ, PROMETHEUS]}),
    },
    {
        "pollingInterval": COUNT,
        "cooldownPeriod": COUNT,
        "initialCooldownPeriod": COUNT,
        "idleReplicaCount": {"const": 0},
        "minReplicaCount": COUNT,
        "maxReplicaCount": COUNT,
        "fallback": closed(
            {"failureThreshold": COUNT, "replicas": COUNT},
            {"behavior": {"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]}},
        ),
        "advanced": closed(
            {},
            {
                "restoreToOriginalReplicaCount": {"type": "boolean"},
                "horizontalPodAutoscalerConfig": closed(
                    {}, {"name": TEXT, "behavior": closed({}, {"scaleUp": SCALING_RULES, "scaleDown": SCALING_RULES})}
                ),
            },
        ),
    },
)
TRIGGER_AUTHENTICATION = closed({"secretTargetRef": some(closed({"parameter": TEXT, "name": TEXT, "key": TEXT}))})
SERVICE_MONITOR = closed(
    {
        "selector": closed({}, {"matchLabels": {"additionalProperties": TEXT}}),
        "endpoints": some(
            closed({"port": TEXT}, {"path": TEXT, "interval": DURATION, "scrapeTimeout": DURATION, "scheme": TEXT})
        ),
    },
    {"jobLabel": TEXT, "namespaceSelector": closed({}, {"matchNames": some(TEXT)})},
)
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
ALERT = closed(
    {"alert": TEXT, "expr": TEXT},
    {"for": DURATION, "keep_firing_for": DURATION, "labels": TEXTS, "annotations": TEXTS},
)
RECORD = closed({"record": TEXT, "expr": TEXT}, {"labels": TEXTS})
PROMETHEUS_RULE = closed(
    {
        "groups": some(
            closed(
                {
                    "name": TEXT,
                    "rules": some({"anyOf": [ALERT, RECORD]}),
                },
                {"interval": DURATION, "limit": COUNT},
            )
        )
    }
)
SCHEMAS = {
    "ScaledObject": resource("keda.sh/v1alpha1", "ScaledObject", SCALED_OBJECT),
    "TriggerAuthentication": resource("keda.sh/v1alpha1", "TriggerAuthentication", TRIGGER_AUTHENTICATION),
    "ServiceMonitor": resource("monitoring.coreos.com/v1", "ServiceMonitor", SERVICE_MONITOR),
    "PrometheusRule": resource("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
}
