"""The cluster templates, as far as they can be checked without a cluster."""

import ast
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "experiments" / "clusters"
LOCK = (ROOT / "requirements.lock").read_text()


def template(name):
    return yaml.safe_load((TEMPLATES / name).read_text())


def test_ray_accepts_the_template_for_ray_up():
    validate_config(prepare_config(template("ray_up_aws.yaml")))


def test_ray_up_copies_and_installs_what_the_project_has():
    config = template("ray_up_aws.yaml")
    mounts = config["file_mounts"]
    assert set(mounts.values()) == {".", "~/.ray/auth_token"}
    (project,) = (Path(remote).name for remote, local in mounts.items() if local == ".")
    for command in config["setup_commands"]:
        folder = re.match(r"cd (\S+) && ", command)
        assert folder is None or folder[1] == project
    assert any("--requirements requirements.lock" in line for line in config["setup_commands"])
    assert "\nboto3==" in LOCK  # `head_setup_commands` would install it otherwise.
    assert config["head_setup_commands"] == []
    assert (ROOT / ".gitignore").is_file()
    assert config["rsync_filter"] == [".gitignore"]  # It has .venv, which is made on each node.


def test_only_workers_that_ray_up_replaces_are_spot_instances():
    config = template("ray_up_aws.yaml")
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    (worker,) = kinds.values()
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["min_workers"] == worker["max_workers"] == config["max_workers"]


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_rayjob_runs_one_image_with_the_locked_ray():
    job = template("kuberay_rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']}\n" in LOCK
    assert version("ray") == cluster["rayVersion"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    containers = [container for pod in pods(job) for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    build = f"docker build -f experiments/clusters/Dockerfile -t {containers[0]['image']} ."
    assert build in (TEMPLATES / "Dockerfile").read_text()


def test_all_pods_of_the_rayjob_see_the_same_folders():
    job = template("kuberay_rayjob.yaml")
    entrypoint = shlex.split(job["spec"]["entrypoint"])
    used = [word for word in entrypoint if word.startswith("/shared/")]
    assert len(used) == 3  # Data, weights and storage.
    for pod in pods(job):
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert mounted == {"shared": "/shared", "cache": "/cache"}
        assert "persistentVolumeClaim" in volumes["shared"]
        assert volumes["cache"]["emptyDir"] == {}
        assert {"name": "TOKENSWEEP_CACHE", "value": "/cache"} in container["env"]


def test_pods_of_the_rayjob_get_what_they_are_limited_to():
    head, *workers = pods(template("kuberay_rayjob.yaml"))
    for pod in (head, *workers):
        resources = pod["containers"][0]["resources"]
        assert resources["limits"] == resources["requests"]
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert all(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in workers)


def test_the_image_holds_the_whole_project():
    text = (TEMPLATES / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    sources = {source for line in copied for source in line}
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {name.removesuffix("*") for name in included}
    assert packages | {"pyproject.toml", "requirements.lock", "README.md", "LICENSE"} == sources
    assert "pip install --no-cache-dir -r requirements.lock" in text
    python = re.search(r"^FROM python:([\d.]+)-slim$", text, flags=re.MULTILINE)[1]
    assert project["project"]["requires-python"] == f">={python}"
    entrypoint = shlex.split(template("kuberay_rayjob.yaml")["spec"]["entrypoint"])
    folder = re.search(r"^WORKDIR (\S+)$", text, flags=re.MULTILINE)[1]
    assert entrypoint[:2] == ["python", f"{folder}/experiments/full_grid.py"]


def test_the_batch_script_is_valid():
    script = TEMPLATES / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    embedded = re.findall(r"<<'PYTHON'\n(.*?)^PYTHON$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(embedded) == 1
    ast.parse(embedded[0])
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, flags=re.MULTILINE))
    assert options.keys() >= {"nodes", "exclusive", "requeue", "open-mode"}
    assert options["ntasks-per-node"] == "1"
    signal, _, seconds = options["signal"].removeprefix("B:").partition("@")
    assert signal == "USR1"
    assert int(seconds) >= 300


@pytest.mark.parametrize("name", ["ray_up_aws.yaml", "slurm.sbatch"])
def test_the_dashboard_stays_on_loopback(name):
    lines = (TEMPLATES / name).read_text().splitlines()
    starts = [line for line in lines if "ray start --head" in line or "--head --port" in line]
    assert starts
    assert not any("dashboard-host" in line for line in lines)
