"""deploy/kubernetes: both overlays rendered by kubectl and checked against Kubernetes' schemas, and what they mean; the
metrics that rules and dashboard name; a drain as a pod meets it."""

from __future__ import annotations

import json
import re
import signal
import sysconfig
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from typing import Any

import grpc
import kubernetes_validate
import pytest
import yaml

from benchmarks.fleet.envoy import configuration, connection_manager
from misotts.serve.stage.metrics import METRICS
from misotts_client import Client, MisoError
from misotts_client.contract import INPUTS
from misotts_gateway.counts import Counts
from tests.support.fake_triton import answer, running
from tests.support.gateway import running_gateway
from tests.support.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "h100")
WITHOUT_SCHEMA = {"ScaledObject", "PodMonitor", "PrometheusRule"}
LONGEST_S = INPUTS["MAX_AUDIO_MS"].high / 1000

Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> dict[tuple[str, str], Manifest]:
    """The manifests of an overlay by kind and name."""
    command = [f"{sysconfig.get_path('scripts')}/kubectl", "kustomize", str(DEPLOY / "overlays" / request.param)]
    rendered = run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(rendered)}


def pod(manifests: dict[tuple[str, str], Manifest], name: str) -> tuple[Manifest, Manifest]:
    """Return the pod's specification of a deployment, and its container."""
    found = manifests["Deployment", name]["spec"]["template"]["spec"]
    (container,) = found["containers"]
    return found, container


def test_every_field_is_known(manifests: dict[tuple[str, str], Manifest]) -> None:
    for (kind, _), manifest in manifests.items():
        if kind not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        assert manifest["metadata"]["namespace"] == "misotts"


def test_a_stop_lets_streams_end(manifests: dict[tuple[str, str], Manifest]) -> None:
    spec, server = pod(manifests, "misotts")
    wait_s = server["lifecycle"]["preStop"]["sleep"]["seconds"]  # which needs no shell
    (drain_s,) = [float(each.partition("=")[2]) for each in server["args"] if each.startswith("--drain-seconds=")]
    assert wait_s >= 5
    assert drain_s > LONGEST_S
    assert spec["terminationGracePeriodSeconds"] >= wait_s + drain_s + 12  # tritonserver's and the gateway's ends
    front, envoy = pod(manifests, "envoy")
    callers = connection_manager(configuration()["static_resources"]["listeners"][0])
    connected_s = float(callers["common_http_protocol_options"]["max_connection_duration"].rstrip("s"))
    assert envoy["lifecycle"]["preStop"]["sleep"]["seconds"] > connected_s + LONGEST_S
    assert front["terminationGracePeriodSeconds"] > envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
    for name in ("misotts", "envoy"):
        deployment = manifests["Deployment", name]["spec"]
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert manifests["PodDisruptionBudget", name]["spec"]["maxUnavailable"] == 1
        assert manifests["PodDisruptionBudget", name]["spec"]["selector"] == deployment["selector"]
        assert deployment["template"]["spec"]["topologySpreadConstraints"]


def test_probes_and_secrets(manifests: dict[tuple[str, str], Manifest]) -> None:
    spec, server = pod(manifests, "misotts")
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    assert ports == {"grpc": 8001, "http": 8080, "operator": 8003}
    probes = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {each["port"] for each in probes.values()} == {"operator"}
    assert {name: each["path"] for name, each in probes.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/live",
    }
    assert server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"] == 1800
    assert server["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "misotts-watermark-key"
    text = json.dumps([spec, pod(manifests, "envoy")[0]])
    assert {"misotts-api-keys", "misotts-tls"} <= set(re.findall(r'"secretName": "([^"]+)"', text))
    volumes = {each["name"]: each for each in spec["volumes"]}
    claim = volumes["voices"]["persistentVolumeClaim"]["claimName"]
    assert manifests["PersistentVolumeClaim", claim]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_envoy_finds_the_servers(manifests: dict[tuple[str, str], Manifest]) -> None:
    service = manifests["Service", "misotts-replicas"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"], "or Envoy's metrics never show one that is not ready"
    served = {each["port"] for each in service["ports"]}
    for cluster in configuration()["static_resources"]["clusters"][:4]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address["address"] == "misotts-replicas"
        assert {address["port_value"], endpoint["endpoint"]["health_check_config"]["port_value"]} <= served
    (policy,) = [each for (kind, _), each in manifests.items() if kind == "NetworkPolicy"]
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "envoy"}}}]


def test_prometheus_finds_the_pods_ports(manifests: dict[tuple[str, str], Manifest]) -> None:
    for (kind, name), monitor in manifests.items():
        if kind != "PodMonitor":
            continue
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        labels = manifests["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {each["name"] for each in pod(manifests, name)[1]["ports"]}
        assert endpoint["path"] == {"misotts": "/metrics", "envoy": "/stats/prometheus"}[name]


def test_the_autoscaler(manifests: dict[tuple[str, str], Manifest]) -> None:
    scaled = manifests.get(("ScaledObject", "misotts"))
    deployment = manifests["Deployment", "misotts"]["spec"]
    assert ("replicas" in deployment) == (scaled is None), "one of them says how many"
    if scaled is None:
        return
    spec = scaled["spec"]
    (trigger,) = spec["triggers"]
    query = trigger["metadata"]["query"]
    # An idle server reports 0. If nothing is scraped, the load is not known: an error, and the HPA changes nothing.
    assert "vector" not in query
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert spec["minReplicaCount"] >= 3, "two for the load, and a spare"
    assert "/" not in query, "nothing that could be NaN"
    assert not re.search("gpu|util", query, re.IGNORECASE)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] > LONGEST_S
    assert all(each["periodSeconds"] > LONGEST_S for each in down["policies"])
    (slots,) = [int(each.partition("=")[2]) for each in pod(manifests, "misotts")[1]["args"] if "max-streams" in each]
    assert 0.5 < float(trigger["metadata"]["threshold"]) / slots < 0.9


def known_metrics() -> set[str]:
    """Return the names of all metrics of stages and gateway, histograms as Prometheus stores them."""
    stages = {f"misotts_{stage}_{each.name}" for stage, metrics in METRICS.items() for each in metrics}
    gateway = set()
    for family in Counts().registry.collect():
        gateway.add(f"{family.name}_total" if family.type == "counter" else family.name)
    plain = stages | gateway
    return plain | {f"{name}_bucket" for name in plain if name.endswith("_seconds")}


def queries() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    (rules,) = yaml.safe_load_all((DEPLOY / "monitoring" / "rules.yaml").read_text())
    for group in rules["spec"]["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    (scaled,) = yaml.safe_load_all((DEPLOY / "autoscaling" / "scaledobject.yaml").read_text())
    yield scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_rules_and_dashboard_name_metrics_that_exist() -> None:
    text = " ".join(queries())
    ours = set(re.findall(r"\bmisotts_\w+", text))
    assert ours - known_metrics() == set()
    assert len(ours) > 20
    assert not re.findall(r"\bnv_\w+|DCGM\w+", text)


@pytest.mark.long
@pytest.mark.timeout(60)
def test_a_client_that_knows_nothing_of_health_meets_a_drain() -> None:
    """Ten calls a second, before SIGTERM (the wait of preStop) and after it."""

    def speak(seconds: float) -> Any:
        def script(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield answer()
            time.sleep(seconds)
            yield answer(frame=1, finish="eos")

        return script

    told = threading.Event()
    results: list[tuple[bool, str]] = []

    def call(client: Client) -> None:
        after = told.is_set()
        try:
            results.append((after, client.speak("Hello.").finish))
        except MisoError as error:
            results.append((after, error.code))

    with running() as fake, running_gateway(fake.url) as gateway, Client(gateway.url) as client:
        fake.script = speak(2)
        with ThreadPoolExecutor(64) as threads:
            for number in range(30):
                threads.submit(call, client)
                time.sleep(0.1)
                if number == 14:
                    told.set()
                    time.sleep(0.1)
                    gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.process.poll() == 0, 10)
    assert {finish for after, finish in results if not after} == {"eos"}
    assert {finish for after, finish in results if after} <= {"eos", "UNAVAILABLE"}
    assert sum(finish == "UNAVAILABLE" for after, finish in results) >= 10


def test_the_compose_file_for_eight_gpus() -> None:
    compose = yaml.safe_load((DEPLOY.parent / "compose-8.yaml").read_text())
    servers = [each for name, each in compose["services"].items() if name.startswith("gpu")]
    assert [each["environment"]["GPU"] for each in servers] == [str(number) for number in range(8)]
    for each in servers:
        words = each["command"].split()
        ports = [words[words.index(f"--{name}-port") + 1] for name in ("grpc", "http", "ready")]
        assert ports == ["8001", "8080", "8003"], "as envoy.yaml has them"
        assert each["networks"]["default"]["aliases"] == ["misotts-replicas"]
        assert each["depends_on"] == ["envoy"], "which stops last"
        assert int(each["stop_grace_period"].rstrip("s")) >= int(words[-1].rstrip("'")) + 12
