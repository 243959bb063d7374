"""The whole audit at the demo's size, by the command of `make audit PROFILE=demo`, on one seed, in
two processes.
"""

import re
import subprocess

from audit import tables, verdicts
from audit.plan import LETTERS, SIZES, plan
from src.profiles import open_profile


def test_every_letter_runs_on_the_demo_and_one_seed_concludes_nothing(tmp_path, command):
    asked = command(
        "audit", "--profile", "demo", "--workspace", tmp_path, "--seeds", 1, "--device", "cpu"
    )
    open_profile("demo", tmp_path).eurosat()  # a store has one builder
    both = [
        subprocess.Popen(**asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    done = [re.findall(r"^\d+/\d+ (.+) \(", out, re.M) for out, _ in said]
    assert all(done) and not set(done[0]) & set(
        done[1]
    )  # both did some, none did what the other had done
    table, records = tables.read(open_profile("demo", tmp_path).records / "audit")
    planned = sorted(plan(SIZES["demo"], LETTERS, range(1)))
    assert sorted((r["letter"], r["arm"], r["seed"]) for r in records) == planned
    told = verdicts.verdict_table(table)
    told = told[(told["letter"] != "a") & (told["verdict"] != verdicts.MISSING)]
    assert set(told["letter"]) == set("bcdefghi") and set(told["verdict"]) == {verdicts.OPEN}
