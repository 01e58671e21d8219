"""A user verifies, backs up, prunes and restores a night with the real program."""

import json
import stat

from tests.factories import small_chest, write_jpeg
from tests.program import last_json, make_environment, run


def test_a_night_is_verified_backed_up_pruned_and_restored(tmp_path):
    for number in range(3):
        write_jpeg(tmp_path / f"night/{number}.jpg", small_chest(number))
    env = make_environment(tmp_path)
    run("score", "night", env=env, cwd=tmp_path)

    verified = last_json(run("verify", "--json", env=env, cwd=tmp_path))
    assert (verified["checked"], verified["equal"]) == (3, 3)
    (tmp_path / "night/0.jpg").unlink()
    said = run("verify", "night", "--sample", "3", env=env, cwd=tmp_path, expect=3).stdout
    assert "missing-file" in said
    write_jpeg(tmp_path / "night/1.jpg", small_chest(9))
    assert "the file holds other bytes" in run("verify", env=env, cwd=tmp_path, expect=1).stdout

    run("report", "--out", "night.html", env=env, cwd=tmp_path)
    page = (tmp_path / "night.html").read_text()
    assert "3 found = 3 scored + 0 rejected + 0 failed" in page
    assert "the file has changed since it was scored" in page
    assert stat.S_IMODE((tmp_path / "night.html").stat().st_mode) == 0o600
    assert last_json(run("report", "--format", "json", env=env, cwd=tmp_path))["scored"] == 3
    assert "no date" in run("report", "--night", "yesterday", env=env, cwd=tmp_path, expect=2).stderr

    run("db", "backup", "night.backup", env=env, cwd=tmp_path)
    counted = last_json(run("prune", "--older-than", "0s", "--dry-run", "--json", env=env, cwd=tmp_path))
    pruned = last_json(run("prune", "--older-than", "0s", "--json", env=env, cwd=tmp_path))
    changing = {"dry_run", "ended_before"}
    assert {key: pruned[key] for key in pruned.keys() - changing} == {
        key: counted[key] for key in counted.keys() - changing
    }
    assert (pruned["runs"], pruned["scans"], pruned["predictions"]) == (1, 3, 3)
    assert json.loads(run("runs", "--json", env=env, cwd=tmp_path).stdout) == []

    elsewhere = env | {"NIGHTREAD_DATABASE_URL": f"sqlite:///{tmp_path}/restored.db"}
    run("db", "restore", "night.backup", env=elsewhere, cwd=tmp_path)
    assert "FAULT" not in run("db", "check", env=elsewhere, cwd=tmp_path).stdout
    assert last_json(run("status", "--json", env=elsewhere, cwd=tmp_path))["scored"] == 3

    assert "only PostgreSQL has partitions" in run("db", "partition", env=env, cwd=tmp_path, expect=1).stderr
    refused = run("prune", "--older-than", "soon", env=env, cwd=tmp_path, expect=2).stderr
    assert "is no duration" in refused
