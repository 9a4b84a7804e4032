"""Renders k8s/base and holds it against Kubernetes' schemas, the restricted security standard, and the service.

    python tests/k8s/validate.py TOPOLOGY.json

TOPOLOGY.json is what `xtwebhooks topology --json` prints. Rendered by kubectl where there is one, else by reading the
files that the kustomization names: it only lists resources. Nothing is asked of a cluster or of the network.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

BASE = Path(__file__).resolve().parents[2] / "k8s" / "base"
# The oldest release that is still cared for somewhere, and the newest whose schemas are installed.
KUBERNETES_VERSIONS = ("1.30", "1.37")
ROLES = ("ingest", "deliver", "schedule", "dead-letter", "prune", "api")
# Which of the service's ports a role answers on besides its probes.
ROLE_PORTS = {"api": ["api"]}
QUEUES_ANNOTATION = "xtwebhooks/queues"
SECRET_KEYS = {"DATABASE_URL", "AMQP_URL"}


def main(topology_file):
    topology = json.loads(Path(topology_file).read_text())
    objects, renderer = render()
    problems = [
        *schema_problems([*objects, example_secret()]),
        *role_problems(objects),
        *pod_problems(objects, topology),
        *selector_problems(objects),
        *secret_problems(objects),
        *topology_problems(objects, topology),
    ]
    print("\n".join(problems) or f"k8s/base: {len(objects)} objects in order (rendered by {renderer})")
    return 1 if problems else 0


def render():
    if shutil.which("kubectl"):
        done = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"kubectl kustomize: {done.stderr}")
        return list(yaml.safe_load_all(done.stdout)), "kubectl"
    return read_resources(), "reading its files"


def read_resources():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "resources"}
    if kustomization.keys() - known:
        sys.exit(f"without kubectl only {known} can be rendered, and there is more in the kustomization")
    return [found for name in kustomization["resources"] for found in yaml.safe_load_all((BASE / name).read_text())]


def example_secret():
    return yaml.safe_load((BASE / "secret.example.yaml").read_text())


def schema_problems(objects):
    for version in KUBERNETES_VERSIONS:
        for thing in objects:
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                yield f"{name(thing)}: Kubernetes {version}: {where}: {error.message}"


def role_problems(objects):
    deployed = {role_of(thing): thing for thing in objects if thing["kind"] == "Deployment"}
    for role in sorted(deployed.keys() ^ set(ROLES)):
        yield f"role {role}: a Deployment for each role and no other"
    for role, thing in deployed.items():
        (container,) = pod(thing)["containers"]
        if container["args"] != ["run", "--role", role]:
            yield f"{name(thing)}: runs {container['args']}"
    for thing in objects:
        if thing["kind"] == "Job" and pod(thing)["containers"][0]["args"] != ["migrate"]:
            yield f"{name(thing)}: does not migrate"
    if sum(thing["kind"] == "Job" for thing in objects) != 1:
        yield "one Job for the migration"


def pod_problems(objects, topology):
    """Pod Security Standard `restricted`, and what else every pod of ours has."""
    accounts = {thing["metadata"]["name"] for thing in objects if thing["kind"] == "ServiceAccount"}
    (settings,) = (thing["data"] for thing in objects if thing["kind"] == "ConfigMap")
    for thing in workloads(objects):
        spec = pod(thing)
        grace = seconds(settings["SHUTDOWN_GRACE"])
        wanted = {
            "runs as somebody else than root": spec["securityContext"].get("runAsNonRoot") is True,
            "has the runtime's seccomp profile": spec["securityContext"].get("seccompProfile")
            == {"type": "RuntimeDefault"},
            "uses the ServiceAccount that is there": spec.get("serviceAccountName") in accounts,
            "mounts no token": spec.get("automountServiceAccountToken") is False,
            "shares nothing with its node": not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
            and not any("hostPath" in volume for volume in spec.get("volumes", [])),
            "has more time to end than SHUTDOWN_GRACE": thing["kind"] == "Job"
            or spec.get("terminationGracePeriodSeconds", 30) > grace,
        }
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            wanted.update(container_wants(container))
            if thing["kind"] == "Deployment":
                wanted.update(probe_wants(container, role_of(thing), topology["ports"]))
        yield from (f"{name(thing)}: not so: {want}" for want, holds in wanted.items() if not holds)


def container_wants(container):
    security, resources = container.get("securityContext", {}), container.get("resources", {})
    return {
        "gains no privilege": security.get("allowPrivilegeEscalation") is False and not security.get("privileged"),
        "has no capability": security.get("capabilities") == {"drop": ["ALL"]},
        "writes nothing to its image": security.get("readOnlyRootFilesystem") is True,
        "says what it needs": {"cpu", "memory"} <= resources.get("requests", {}).keys(),
        "is bounded in memory": "memory" in resources.get("limits", {}),
    }


def probe_wants(container, role, service_ports):
    probes_port = service_ports["probes"]
    published = {name: service_ports[name] for name in ["probes", *ROLE_PORTS.get(role, [])]}
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}

    def asks(probe, path):
        request = container.get(probe, {}).get("httpGet", {})
        return request.get("path") == path and ports.get(request.get("port"), request.get("port")) == probes_port

    return {
        f"publishes the service's ports {published} and no other": ports == published,
        "is asked whether it lives": asks("livenessProbe", "/health/live"),
        "is asked whether it is ready": asks("readinessProbe", "/health/ready"),
    }


def selector_problems(objects):
    """What selects pods selects ours, and a budget those of exactly one Deployment that has more than one."""
    templates = {name(thing): (thing, thing["spec"]["template"]["metadata"]["labels"]) for thing in workloads(objects)}

    def selected(labels):
        return sorted(which for which, (_, has) in templates.items() if labels.items() <= has.items())

    for thing in objects:
        if thing["kind"] == "Deployment" and selected(thing["spec"]["selector"]["matchLabels"]) != [name(thing)]:
            yield f"{name(thing)}: its selector does not select its pods alone"
        if thing["kind"] == "Service":
            (port,) = (port["name"] for port in thing["spec"]["ports"])
            answering = sorted(
                which
                for which, (deployment, _) in templates.items()
                if deployment["kind"] == "Deployment" and port in ["probes", *ROLE_PORTS.get(role_of(deployment), [])]
            )
            if selected(thing["spec"]["selector"]) != answering:
                yield f"{name(thing)}: does not select the pods of every role that answers on {port}, and no other"
        if thing["kind"] == "PodDisruptionBudget":
            chosen = selected(thing["spec"]["selector"]["matchLabels"])
            if len(chosen) != 1 or templates[chosen[0]][0]["spec"]["replicas"] < 2:
                yield f"{name(thing)}: must select one Deployment with several pods, selects {chosen}"


def secret_problems(objects):
    """The Secret is referred to by name and never made here; the example has the keys that are needed."""
    if any(thing["kind"] == "Secret" for thing in objects):
        yield "the kustomization makes a Secret; only the example may"
    if example_secret()["stringData"].keys() != SECRET_KEYS:
        yield f"secret.example.yaml: its keys are not {sorted(SECRET_KEYS)}"
    (settings,) = (thing for thing in objects if thing["kind"] == "ConfigMap")
    if SECRET_KEYS & settings["data"].keys():
        yield f"{name(settings)}: bears what belongs to the Secret"
    wanted = [
        {"configMapRef": {"name": settings["metadata"]["name"]}},
        {"secretRef": {"name": example_secret()["metadata"]["name"]}},
    ]
    for thing in workloads(objects):
        for container in pod(thing)["containers"]:
            if container.get("envFrom") != wanted:
                yield f"{name(thing)}: does not take its settings from the ConfigMap and the Secret"


def topology_problems(objects, topology):
    """Every name and number that the manifests and the service both say is the same in both."""
    queues = {queue["name"] for queue in topology["queues"]}
    exchanges = {exchange["name"] for exchange in topology["exchanges"]}
    for thing in objects:
        named = thing["metadata"].get("annotations", {}).get(QUEUES_ANNOTATION)
        if named is not None:
            yield from (f"{name(thing)}: there is no queue {queue}" for queue in sorted(set(named.split(",")) - queues))
        if thing["kind"] == "Service":
            for port in thing["spec"]["ports"]:
                wanted = (topology["ports"].get(port["name"]), port["name"])
                if (port["port"], port["targetPort"]) != wanted:
                    yield f"{name(thing)}: port {port} is none of the service's {topology['ports']}"
        if thing["kind"] == "ConfigMap":
            if thing["data"]["EVENTS_EXCHANGE"] not in exchanges:
                yield f"{name(thing)}: there is no exchange {thing['data']['EVENTS_EXCHANGE']}"
            for queue in sorted(queues):
                if not queue.startswith(thing["data"]["AMQP_PREFIX"] + "."):
                    yield f"{name(thing)}: queue {queue} does not bear AMQP_PREFIX"
    if not any(QUEUES_ANNOTATION in thing["metadata"].get("annotations", {}) for thing in objects):
        yield f"no Deployment says in {QUEUES_ANNOTATION} which queues wait for it"


def workloads(objects):
    return [thing for thing in objects if thing["kind"] in ("Deployment", "Job")]


def pod(thing):
    return thing["spec"]["template"]["spec"]


def role_of(thing):
    return thing["metadata"]["labels"].get("app.kubernetes.io/component")


def name(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
