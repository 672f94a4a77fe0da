"""What documents may look like, written as data: a small language for the tests, and what is said in it.

A dict lists the keys ("name!" must be there, `str` stands for any other), a list holds the shape of its items, a set
the values there are, a type or a tuple of them what is to stand there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def strange(value: Any, shape: Any, place: str = "") -> Iterator[str]:
    """Where a document is not as its shape."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{place}: no mapping"
            return
        known = {key.rstrip("!"): inner for key, inner in shape.items() if isinstance(key, str)}
        for key in (key[:-1] for key in shape if isinstance(key, str) and key.endswith("!")):
            if key not in value:
                yield f"{place}.{key}: missing"
        for key, inner in value.items():
            if key in known or str in shape:
                yield from strange(inner, known.get(key, shape.get(str)), f"{place}.{key}")
            else:
                yield f"{place}.{key}: unknown"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{place}: no list"
            return
        for number, item in enumerate(value):
            yield from strange(item, shape[0], f"{place}[{number}]")
    elif isinstance(shape, set):
        if value not in shape:
            yield f"{place}: {value!r} is none of {sorted(shape)}"
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape in (int, (int, float), (int, str))):
        yield f"{place}: {value!r} is no {shape}"


TEXTS = {str: str}

# -- Kubernetes: the API reference, v1, apps/v1 and batch/v1 of 1.35 ---------------------------------------------------

PROBE = {
    "httpGet!": {"path!": str, "port!": int}, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int,
    "initialDelaySeconds": int,
}  # fmt: skip
RIGHTS = {
    "allowPrivilegeEscalation!": bool, "readOnlyRootFilesystem": bool, "capabilities!": {"drop!": [{"ALL"}]},
    "seccompProfile!": {"type!": {"RuntimeDefault"}},
}  # fmt: skip
SECRET_REF = {"secretKeyRef!": {"name!": str, "key!": str}}
CONTAINER = {
    "name!": str, "image!": str, "command": [str], "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": SECRET_REF}],
    "ports": [{"name": str, "containerPort!": int, "protocol": {"TCP"}}],
    "resources": {"requests": TEXTS, "limits": TEXTS}, "startupProbe": PROBE, "readinessProbe": PROBE,
    "livenessProbe": PROBE, "securityContext!": RIGHTS,
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}],
}  # fmt: skip
VOLUME = {
    "name!": str, "persistentVolumeClaim": {"claimName!": str}, "secret": {"secretName!": str},
    "emptyDir": {"medium": {"Memory"}, "sizeLimit": str},
}  # fmt: skip
AFFINITY = {"podAntiAffinity!": {"preferredDuringSchedulingIgnoredDuringExecution!": [
    {"weight!": int, "podAffinityTerm!": {"labelSelector!": {"matchLabels!": TEXTS}, "topologyKey!": str}},
]}}  # fmt: skip
POD = {
    "containers!": [CONTAINER], "initContainers": [CONTAINER], "volumes": [VOLUME], "nodeSelector": TEXTS,
    "affinity": AFFINITY, "restartPolicy": {"Never", "OnFailure"}, "automountServiceAccountToken!": bool,
    "enableServiceLinks": bool,
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int},
}  # fmt: skip
META = {"name!": str, "namespace!": str, "labels!": TEXTS, "annotations": TEXTS}
TEMPLATE = {"metadata!": {"labels!": TEXTS}, "spec!": POD}
KINDS: dict[str, dict[str, Any]] = {
    "PersistentVolumeClaim": {
        "apiVersion!": {"v1"}, "kind!": str, "metadata!": META,
        "spec!": {"accessModes!": [{"ReadWriteOnce"}], "resources!": {"requests!": {"storage!": str}},
                  "storageClassName": str},
    },
    "Job": {
        "apiVersion!": {"batch/v1"}, "kind!": str, "metadata!": META,
        "spec!": {"backoffLimit": int, "ttlSecondsAfterFinished": int, "template!": TEMPLATE,
                  "podFailurePolicy": {"rules!": [{"action!": {"FailJob"}, "onExitCodes": {
                      "containerName": str, "operator!": {"In"}, "values!": [int]}}]}},
    },
    "Deployment": {
        "apiVersion!": {"apps/v1"}, "kind!": str, "metadata!": META,
        "spec!": {"replicas!": int, "strategy!": {"type!": {"Recreate"}}, "selector!": {"matchLabels!": TEXTS},
                  "template!": TEMPLATE},
    },
    "Service": {
        "apiVersion!": {"v1"}, "kind!": str, "metadata!": META,
        "spec!": {"selector!": TEXTS,
                  "ports!": [{"name": str, "port!": int, "targetPort": (int, str), "protocol": {"TCP"}}]},
    },
}  # fmt: skip

# -- vllm-project/production-stack, helm/values.schema.json ------------------------------------------------------------

INIT = {
    "name!": str, "image!": str, "command": [str], "args": [str], "env": list, "resources": dict,
    "mountPvcStorage": bool,
}  # fmt: skip
MODEL = {
    "name!": str, "repository!": str, "tag!": str, "modelURL!": str, "replicaCount": int, "requestCPU": int,
    "requestMemory": str, "requestGPU": (int, float, str), "requestGPUType": str, "pvcStorage": str,
    "pvcAccessMode": [str], "storageClass": str, "env": list, "nodeSelectorTerms": list, "affinity": AFFINITY,
    "initContainer": INIT,
    "lmcacheConfig": {"enabled": bool, "cpuOffloadingBufferSize": (int, float, str)},
    "vllmConfig": {"gpuMemoryUtilization": (int, float, str), "maxModelLen": int, "tensorParallelSize": int,
                   "extraArgs": [str]},
}  # fmt: skip
START = {"httpGet!": {"path": str, "port": (int, str)}, "periodSeconds": int, "failureThreshold": int}
VLLM_CHART = {"servingEngineSpec!": {
    "enableEngine!": bool, "startupProbe": START, "strategy": {"type": {"RollingUpdate", "Recreate"}},
    "vllmApiKey": {"secretName!": str, "secretKey!": str}, "modelSpec!": [MODEL],
}}  # fmt: skip

# -- bjw-s-labs common 5, schemas/ -------------------------------------------------------------------------------------

SPEC_PROBE = {"enabled": bool, "custom": bool, "spec": PROBE}
BJW_CONTAINER = {
    "image!": str, "command": [str], "args": [str], "env": (dict, list),
    "resources": {"limits": dict, "requests": dict},
    "probes": {"startup": SPEC_PROBE, "readiness": SPEC_PROBE, "liveness": SPEC_PROBE},
}  # fmt: skip
MOUNTS = {str: {str: [{"path!": str, "readOnly": bool}]}}
APP_TEMPLATE = {
    "controllers!": {str: {
        "type": {"deployment", "job"}, "replicas": int, "strategy": {"Recreate", "RollingUpdate"},
        "pod": {"labels": TEXTS, "nodeSelector": TEXTS, "affinity": AFFINITY}, "containers!": {str: BJW_CONTAINER},
        "initContainers": {str: BJW_CONTAINER}, "job": {"backoffLimit": int},
    }},
    "service!": {str: {"controller!": str, "ports!": {str: {"port!": (int, str), "targetPort": (int, str)}}}},
    "persistence!": {str: {
        "type!": {"persistentVolumeClaim", "secret", "emptyDir"}, "accessMode": str, "size": str, "retain": bool,
        "storageClass": str, "name": str, "medium": str, "sizeLimit": str, "advancedMounts": MOUNTS,
    }},
}  # fmt: skip

# -- kubernetes-sigs/gateway-api-inference-extension, config/charts/inferencepool --------------------------------------

POOL = {
    "inferencePool!": {"targetPorts!": [{"number!": int}], "modelServerType!": {"vllm", "triton-tensorrt-llm"},
                       "modelServers!": {"matchLabels!": TEXTS}},
    "inferenceExtension!": {"replicas": int, "pluginsConfigFile": str, "pluginsCustomConfig": TEXTS},
    "provider!": {"name!": {"none", "gke", "istio"}},
}  # fmt: skip
PICKER = {
    "apiVersion!": {"inference.networking.x-k8s.io/v1alpha1"}, "kind!": {"EndpointPickerConfig"},
    "plugins!": [{"type!": str}],
    "schedulingProfiles!": [{"name!": str, "plugins!": [{"pluginRef!": str, "weight": int}]}],
}  # fmt: skip
