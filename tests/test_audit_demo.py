"""The whole audit at the demo's size, by the command of `make audit PROFILE=demo`, on one seed."""

import subprocess

from src.audit import tables, verdicts
from src.audit.plan import LETTERS, SIZES, plan
from src.profiles import open_profile


def test_every_letter_runs_on_the_demo_and_one_seed_concludes_nothing(tmp_path, command):
    asked = command("src.audit", "--profile", "demo", "--workspace", tmp_path, "--seeds", 1, "--device", "cpu")
    done = subprocess.run(**asked, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    table, records = tables.read(open_profile("demo", tmp_path).records / "audit")
    planned = sorted(plan(SIZES["demo"], LETTERS, range(1)))
    assert sorted((r["letter"], r["arm"], r["seed"]) for r in records) == planned
    told = verdicts.verdict_table(table)
    told = told[(told["letter"] != "a") & (told["verdict"] != verdicts.MISSING)]
    assert set(told["letter"]) == set("bcdefghi") and set(told["verdict"]) == {verdicts.OPEN}
