"""The very command and probes of each container in deploy/kubernetes, as processes on this host.

What differs from a cluster are the places: folders, ports, Redis and PostgreSQL of this test.
"""

import contextlib
import subprocess
import urllib.request

from tests.factories import small_chest, write_jpeg
from tests.kubernetes import find_containers, read_settings
from tests.program import PROGRAM, last_json, make_environment, run, started, wait_until
from tests.services import find_free_port

CONTAINERS = {name: container for name, _pod, container in find_containers()}


def test_the_containers_score_a_night_together(tmp_path, postgres_url, redis_url):
    night = tmp_path / "scans" / "night"
    for seed in range(6):
        write_jpeg(night / f"{seed}.jpeg", small_chest(seed))
    (tmp_path / "models").mkdir()
    urls = {"database_url": postgres_url, "broker_url": redis_url, "worker_broker_url": redis_url}
    for file, url in urls.items():
        (tmp_path / file).write_text(url)
    ports = {"9464": find_free_port(), "8000": find_free_port()}
    places = {"/run/secrets/nightread": tmp_path, "/scans": tmp_path / "scans", "/models": tmp_path / "models"}

    def fit(text):
        for place, here in places.items():
            text = text.replace(place, str(here)) if text.startswith(place) else text
        for port, here in ports.items():
            text = text.replace(f":{port}", f":{here}")
        return text.replace("0.0.0.0", "127.0.0.1")

    settings = read_settings("base")

    def environment(container):
        own = settings | {entry["name"]: entry["value"] for entry in container["env"]}
        fitted = {name: fit(value) for name, value in own.items()}
        path = f"{PROGRAM.parent}:{make_environment(tmp_path)['PATH']}"
        return make_environment(tmp_path) | {"PATH": path, "NIGHTREAD_SWEEP_S": "1"} | fitted

    def probe(name):
        test = [fit(word) for word in CONTAINERS[name]["startupProbe"]["exec"]["command"]]
        done = subprocess.run(test, env=environment(CONTAINERS[name]), cwd=tmp_path, capture_output=True, check=False)
        return done.returncode == 0

    migrate = CONTAINERS["migrate"]
    subprocess.run(migrate["command"], env=environment(migrate), cwd=tmp_path, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        for name in ("worker", "beat", "metrics", "web"):
            command = [fit(word) for word in CONTAINERS[name]["command"]]
            if name == "web":  # its port is the default
                command += ["--listen", f"127.0.0.1:{ports['8000']}"]
            stack.enter_context(
                started(["env", *command], environment(CONTAINERS[name]), tmp_path, tmp_path / f"{name}.log")
            )
        done = run("enqueue", night, "--wait", "--json", env=environment(CONTAINERS["beat"]), cwd=tmp_path)
        assert last_json(done)["scored"] == 6

        for name in ("worker", "beat", "web"):
            wait_until(lambda name=name: probe(name), f"the probe of {name}")
        live = CONTAINERS["worker"]["livenessProbe"]["exec"]["command"]
        subprocess.run(live, env=environment(CONTAINERS["worker"]), cwd=tmp_path, check=True, capture_output=True)
        page = CONTAINERS["metrics"]["livenessProbe"]["httpGet"]["path"]
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['9464']}{page}", timeout=30) as answer:
            assert 'nightread_scans{reason="",status="scored"} 6.0' in answer.read().decode()
